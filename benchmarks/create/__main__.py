"""Style transfer against the loop of the tutorials, and L-BFGS against Adam.

    python -m benchmarks.create steps             # time of one evaluation, alternately in one run
    python -m benchmarks.create same_loss         # time until the loss of our result is reached
    python -m benchmarks.create optimizers        # losses at equal evaluations
    python -m benchmarks.create blind --out DIR   # pairs to be judged, at equal time

Seconds are those of the processor, both cores together, because they change little when others use
the machine. The rivals are in `benchmarks.create.problem`.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.create.patterns import STYLES
from benchmarks.create.problem import Array, Bench, Problem
from benchmarks.create.sheets import PHOTOS, SIDE, SheetWork, Studio, tile
from benchmarks.create.tutorial import Tutorial
from benchmarks.machine import describe
from contracts.create.requests import CONTENT_FILE, Optimizer, StyleTransferRequest, style_file
from contracts.settings import Settings
from models.create.style.job import run as run_job
from models.create.style.optimizers import descent_of
from models.rendering.contact_sheet import contact_sheet

_RATE: float = StyleTransferRequest.model_fields["learning_rate"].default
"""Of Adam, in levels of 0 to 255: 0.02 of 1, as in TensorFlow's tutorial."""
_TIMES = 4  # as long as ours, then a rival that has not reached our loss is stopped
_BLOCK, _COUNTS = 25, (25, 50, 100)  # evaluations
_TITLES = ("content", "style", "left", "right")

Rivals = dict[str, Callable[[], tuple[float, Array]]]


def steps(bench: Bench, options: argparse.Namespace) -> None:
    """Seconds of one evaluation of loss and gradient."""
    for size in (options.side // 2, options.side):
        problem = bench.problem(0, size)
        image = problem.content.numpy()[0]
        rivals: Rivals = {
            "plain, all three images": partial(problem.plain, image, all_three=True),
            "plain, targets once": partial(problem.plain, image, all_three=False),
            "ours": partial(problem.ours, image),
        }
        medians, answers = _alternately(rivals, options.rounds)
        ours = medians["ours"]
        for name, seconds in medians.items():
            print(f"{size} px  {name:24} {seconds:6.2f} s  ({seconds / ours:.2f} of ours)")
        losses = [loss for loss, _ in answers.values()]
        print(f"{size} px  losses differ by {np.ptp(losses) / losses[0]:.1e} at most", flush=True)


def _alternately(
    rivals: Rivals, rounds: int
) -> tuple[dict[str, float], dict[str, tuple[float, Array]]]:
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    answers = {name: rival() for name, rival in rivals.items()}
    for _ in range(rounds):
        for name, rival in rivals.items():
            before = time.process_time()
            rival()
            seconds[name].append(time.process_time() - before)
    return {name: float(np.median(one)) for name, one in seconds.items()}, answers


def same_loss(bench: Bench, options: argparse.Namespace) -> None:
    """How long the tutorial's loop takes to the loss of our result, and what it has at our time.

    Its steps are Adam's, from the content and at the full size; ours are a job's by default.
    """
    problem = bench.problem(0, options.side)
    seconds, loss = _our_job(bench, options.side)
    print(f"ours: loss {loss:.1f} after {seconds:.1f} s", flush=True)
    for all_three, name in ((True, "plain, all three images"), (False, "plain, targets once")):
        at_our_time, spent, found = float("nan"), 0.0, float("inf")
        for spent, found in _plain_descent(problem, all_three=all_three):
            at_our_time = found if spent <= seconds else at_our_time
            if found <= loss or spent > _TIMES * seconds:
                break
        ending = "reached" if found <= loss else "not reached"
        print(
            f"{name}: loss {at_our_time:.1f} at our time; ours {ending}: {found:.1f} after "
            f"{spent:.1f} s, {spent / seconds:.1f} of ours",
            flush=True,
        )


def _plain_descent(problem: Problem, *, all_three: bool) -> Iterator[tuple[float, float]]:
    """Seconds so far and loss, at each step of Adam, without an end."""
    image = tf.Variable(problem.content[0])
    adam = tf.keras.optimizers.Adam(_RATE, beta_2=0.99)
    began = time.process_time()
    while True:
        loss, gradient = problem.plain(image.numpy(), all_three=all_three)
        yield time.process_time() - began, loss
        adam.apply_gradients([(tf.constant(gradient), image)])
        image.assign(tf.clip_by_value(image, 0, 255))


def _our_job(bench: Bench, side: int) -> tuple[float, float]:
    """A job by default: its seconds, with start and targets, and the loss of its result."""
    photo, style = bench.images(0, side)
    with TemporaryDirectory() as folder:
        photo.save(Path(folder) / CONTENT_FILE, "PNG")
        style.save(Path(folder) / style_file(0), "PNG")
        began = time.process_time()
        work = SheetWork({"size": side, "styles": 1, "preview_every": 1000}, Path(folder))
        result = run_job(work, bench.settings)
        return time.process_time() - began, result["losses"]["total"]


def optimizers(bench: Bench, options: argparse.Namespace) -> None:
    """The lowest loss after equal evaluations, at one size."""
    print("evaluations   ", "  ".join(f"{count:9}" for count in _COUNTS))
    for number in range(options.pairs):
        problem = bench.problem(number, options.side)
        for name in ("lbfgs", "adam"):
            losses = _descended(problem, name)
            lowest = "  ".join(f"{min(losses[:count]):9.1f}" for count in _COUNTS)
            print(f"pair {number}  {name:6}", lowest, flush=True)


def _descended(problem: Problem, optimizer: Optimizer) -> list[float]:
    """The loss of each evaluation, in blocks as in a job."""
    losses: list[float] = []

    def evaluate(image: Array) -> tuple[float, Array]:
        loss, gradient = problem.ours(image)
        losses.append(loss)
        return loss, gradient

    descent, image = descent_of(optimizer, _RATE), problem.content.numpy()[0]
    for _ in range(_COUNTS[-1] // _BLOCK):
        image = descent.run(image, evaluate, _BLOCK)
    return losses


def blind(bench: Bench, options: argparse.Namespace) -> None:
    """Our result beside the tutorial's at equal time, left or right by the toss of a coin.

    Ours may be those of the contact sheets, in the same folder. Which is which is in `key.json`, to
    be opened after a choice was made for each.
    """
    studio, key = Studio(options.out / "made", bench.settings), {}
    tutorial = Tutorial(bench.weights, bench.name)
    for number in range(options.pairs):
        photo, style = PHOTOS[number % 3], list(STYLES)[(number + number // 3) % 3]
        ours = studio.styled(photo, style)
        images = studio.photo(photo), STYLES[style](SIDE)
        theirs, count = tutorial.painted(*images, studio.seconds)
        is_left = random.random() < 0.5
        pair = (ours, theirs) if is_left else (theirs, ours)
        tiles = [tile(one, name) for one, name in zip((*images, *pair), _TITLES, strict=True)]
        contact_sheet(tiles, columns=2).save(options.out / f"pair-{number}.png")
        key[number] = {"ours": "left" if is_left else "right", "steps": count}
        (options.out / "key.json").write_text(json.dumps(key, indent=1))


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    comparisons: dict[str, Callable[[Bench, Any], None]] = {
        one.__name__: one for one in (steps, same_loss, optimizers, blind)
    }
    parser.add_argument("what", choices=comparisons)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="of steps")
    parser.add_argument("--pairs", type=int, default=3, help="of optimizers and blind")
    parser.add_argument("--out", type=Path, default=Path("blind"), help="of blind")
    options = parser.parse_args()
    print(describe())
    comparisons[options.what](Bench(Settings()), options)


if __name__ == "__main__":
    main()
