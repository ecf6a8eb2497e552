"""Style transfer against the loop of the tutorials, and L-BFGS against Adam.

    python -m benchmarks.create steps        # time of one evaluation, alternately in one run
    python -m benchmarks.create same_loss    # time until the loss of our result is reached
    python -m benchmarks.create optimizers   # losses at equal evaluations

All compute the same losses with the same network and weights. "Plain" is a `GradientTape` in a
Python loop. The tutorials send content, style and image through the network in every step; the
stricter rival computes the targets once. Seconds are those of the processor, both cores together,
because they change little when others use the machine.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from benchmarks.create_sheets import PHOTOS, SheetWork
from benchmarks.machine import describe
from benchmarks.patterns import STYLES
from contracts.create.requests import CONTENT_FILE, StyleNetwork, StyleTransferRequest, style_file
from contracts.settings import Settings
from models.create.features import LAYERS, FeatureNetwork
from models.create.style.job import run as run_job
from models.create.style.losses import content_loss, gram_matrix, style_loss, total_variation
from models.create.style.objective import LossWeights, Objective
from models.create.style.optimizers import descent_of
from models.create.style.weights import available_network
from models.networks.precision import fastest_precision
from models.serving.devices import prepare_tensorflow
from models.weights.catalog import Weights

Array = npt.NDArray[np.float32]
Pair = tuple[Array, Array]
LEARNING_RATE = 5.0  # levels of 0 to 255: 0.02 of 1, as in TensorFlow's tutorial
MOST_STEPS = 60


class Problem:
    """A content, a style and their losses, for every rival.

    Args:
        pair: Content and style, float32 of one size.
    """

    def __init__(self, network: FeatureNetwork, name: StyleNetwork, pair: Pair) -> None:
        layers = LAYERS[name]
        self.network, self.split = network, len(layers.content)
        factor = layers.factor("average")
        self.weights = LossWeights(layers.content_factor * factor, layers.style_factor * factor, 1)
        self.content, self.style = (tf.constant(one[np.newaxis]) for one in pair)
        self.objective = Objective(network, self.split, self.weights)
        self.objective.set_targets(pair[0], [pair[1]], [1.0], evaluations=1000)
        self.targets = self._targets(network(self.content), network(self.style))

    def plain(self, image: Array, *, all_three: bool) -> tuple[float, Array]:
        """Loss and gradient by a tape, operator by operator."""
        variable = tf.Variable(image[np.newaxis])
        with tf.GradientTape() as tape:
            if all_three:
                batch = tf.concat([self.content, self.style, variable], axis=0)
                maps = self.network(batch)
                content, style, found = ([one[n : n + 1] for one in maps] for n in range(3))
                loss = self._loss(variable, found, self._targets(content, style))
            else:
                loss = self._loss(variable, self.network(variable), self.targets)
        return float(loss), tape.gradient(loss, variable).numpy()[0]

    def ours(self, image: Array) -> tuple[float, Array]:
        """Loss and gradient as a job computes them."""
        losses, gradient = self.objective.evaluate(image)
        return losses.total, gradient

    def _targets(self, content: list[Any], style: list[Any]) -> tuple[list[Any], list[Any]]:
        return content[: self.split], [gram_matrix(one) for one in style[self.split :]]

    def _loss(self, image: Any, found: list[Any], targets: tuple[list[Any], list[Any]]) -> Any:
        maps, grams = targets
        content = [content_loss(*pair) for pair in zip(found, maps, strict=False)]
        ours = [gram_matrix(one) for one in found[self.split :]]
        style = [style_loss(*pair, "paper") for pair in zip(ours, grams, strict=True)]
        return (
            self.weights.content * tf.add_n(content) / len(content)
            + self.weights.style * tf.add_n(style) / len(style)
            + self.weights.total_variation * total_variation(image)
        )


class Bench:
    """The network, and pairs of images for it."""

    def __init__(self, settings: Settings) -> None:
        prepare_tensorflow(settings.job_threads)
        self.settings = settings
        weights = Weights.of(settings)
        self.name = available_network(weights)
        layers = LAYERS[self.name]
        self.network = FeatureNetwork.open(
            weights, self.name, [*layers.content, *layers.style], precision=fastest_precision()
        )

    def images(self, number: int, side: int) -> tuple[Image.Image, Image.Image]:
        """A photo and a style, square."""
        photo = Image.open(self.settings.home / "samples" / f"{PHOTOS[number % 3]}.png")
        style = list(STYLES.values())[number % 3](side)
        return photo.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), style

    def problem(self, number: int, side: int) -> Problem:
        photo, style = self.images(number, side)
        pair = np.asarray(photo, np.float32), np.asarray(style, np.float32)
        return Problem(self.network, self.name, pair)


def steps(bench: Bench, side: int, rounds: int) -> None:
    """Seconds of one evaluation of loss and gradient."""
    for size in (side // 2, side):
        problem = bench.problem(0, size)
        image = problem.content.numpy()[0]
        rivals: dict[str, Callable[[], tuple[float, Array]]] = {
            "plain, all three images": lambda p=problem, i=image: p.plain(i, all_three=True),
            "plain, targets once": lambda p=problem, i=image: p.plain(i, all_three=False),
            "ours": lambda p=problem, i=image: p.ours(i),
        }
        medians, answers = _alternately(rivals, rounds)
        ours = medians["ours"]
        for name, seconds in medians.items():
            print(f"{size} px  {name:24} {seconds:6.2f} s  ({seconds / ours:.2f} of ours)")
        losses = [loss for loss, _ in answers.values()]
        print(f"{size} px  losses differ by {np.ptp(losses) / losses[0]:.1e} at most")


def _alternately(
    rivals: dict[str, Callable[[], tuple[float, Array]]], rounds: int
) -> tuple[dict[str, float], dict[str, tuple[float, Array]]]:
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    answers = {name: rival() for name, rival in rivals.items()}
    for _ in range(rounds):
        for name, rival in rivals.items():
            before = time.process_time()
            rival()
            seconds[name].append(time.process_time() - before)
    return {name: float(np.median(one)) for name, one in seconds.items()}, answers


def same_loss(bench: Bench, side: int, _rounds: int) -> None:
    """How long the tutorial's loop takes to the loss of our result, and what it has at our time.

    Its steps are Adam's, from the content and at the full size; ours are a job's by default.
    """
    problem = bench.problem(0, side)
    seconds, loss = _our_job(bench, side)
    print(f"ours: loss {loss:.1f} after {seconds:.1f} s")
    for all_three, name in ((True, "plain, all three images"), (False, "plain, targets once")):
        at_our_time, reached, spent = float("nan"), None, 0.0
        for spent, found in _plain_descent(problem, all_three=all_three):
            at_our_time = found if spent <= seconds else at_our_time
            if found <= loss:
                reached = spent
                break
        if reached is None:
            ending = f"{found:.1f} after {spent:.1f} s ({spent / seconds:.1f} of ours), not reached"
        else:
            ending = f"ours reached after {reached:.1f} s ({reached / seconds:.1f} of ours)"
        print(f"{name}: loss {at_our_time:.1f} at our time; {ending}")


def _plain_descent(problem: Problem, *, all_three: bool) -> Iterator[tuple[float, float]]:
    """Seconds so far and loss, at each step of Adam."""
    image = tf.Variable(problem.content[0])
    adam = tf.keras.optimizers.Adam(LEARNING_RATE, beta_2=0.99)
    began = time.process_time()
    for _ in range(MOST_STEPS):
        loss, gradient = problem.plain(image.numpy(), all_three=all_three)
        yield time.process_time() - began, loss
        adam.apply_gradients([(tf.constant(gradient), image)])
        image.assign(tf.clip_by_value(image, 0, 255))


def _our_job(bench: Bench, side: int) -> tuple[float, float]:
    """A job with the defaults: its seconds, with start and targets, and the loss of its result."""
    photo, style = bench.images(0, side)
    with TemporaryDirectory() as folder:
        photo.save(Path(folder) / CONTENT_FILE, "PNG")
        style.save(Path(folder) / style_file(0), "PNG")
        began = time.process_time()
        work = SheetWork({"size": side, "styles": 1, "preview_every": 1000}, Path(folder))
        result = run_job(work, bench.settings)
        return time.process_time() - began, result["losses"]["total"]


def optimizers(bench: Bench, side: int, _rounds: int) -> None:
    """Losses after equal evaluations, at one size."""
    counts = (25, 50, 100, 200)
    for number in range(3):
        problem = bench.problem(number, side // 2)
        for name in ("lbfgs", "adam"):
            rate = StyleTransferRequest.model_fields["learning_rate"].default
            descent = descent_of(name, rate)
            image, lowest, seen = problem.content.numpy()[0], np.inf, []

            def evaluate(x: Array, p: Problem = problem, s: list[float] = seen) -> Any:
                loss, gradient = p.ours(x)
                s.append(loss)
                return loss, gradient

            for _ in range(counts[-1] // 25):
                image = descent.run(image, evaluate, 25)
            lowest = [min(seen[:count]) for count in counts]
            print(f"pair {number} {name:6}", "  ".join(f"{one:9.1f}" for one in lowest))


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    comparisons = {"steps": steps, "same_loss": same_loss, "optimizers": optimizers}
    parser.add_argument("what", choices=comparisons)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(describe())
    comparisons[arguments.what](Bench(Settings()), arguments.side, arguments.rounds)


if __name__ == "__main__":
    main()
