"""Deletion and insertion AUC of each method, beside random maps, on pictures whose object is known.

    python -m benchmarks.faithfulness FOLDER --model squeezenet --pictures 50

FOLDER holds pictures and a `labels.csv` with the columns file and class_index; those that the
network recognises are used, in the order of the list. The map explains the labelled class. A method
that beats a random map on neither count shows nothing of what the network looks at.

Fifty pictures take a quarter of an hour on an idle core. `--rows FILE` keeps what was measured, a
line of JSON a picture, and goes on behind it: so the work may be done in parts, with `--minutes`.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import labelled
from contracts.inference.explanation import METHODS, Faithfulness
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from models.explain.explainer import Explainer
from models.explain.faithfulness import STEPS, faithfulness
from models.images.decode import decode
from models.serving.devices import prepare_tensorflow
from models.serving.predictor import load_version
from models.store.snapshot import Served
from models.store.store import Store

RANDOM = "random map"
BATCH = 16


def recognised(explainer: Explainer, folder: Path, most: int) -> Iterator[tuple[Pixels, int]]:
    """Pictures of the network's input size whose labelled class comes first."""
    served = Served(explainer.manifest, ())
    for path, wanted in labelled(folder):
        picture = decode(
            path.read_bytes(), network=served, max_pixels=Settings().max_image_pixels
        ).pixels
        if most and explainer.probabilities(picture[np.newaxis])[0].argmax() == wanted:
            most -= 1
            yield picture, wanted


def measured(explainer: Explainer, image: Pixels, target: int, steps: int, seed: int) -> np.ndarray:
    """Both AUCs of a random map and of each method, (1 + methods, 2)."""
    classes = np.array([target], np.int32)
    grids = [
        explainer.heatmaps(method, image[np.newaxis], classes, seed=seed)[0] for method in METHODS
    ]
    grids.insert(0, np.random.default_rng(seed).random(grids[0].shape, np.float32))
    found: list[Faithfulness] = [
        faithfulness(explainer.probabilities, image, grid, target, steps) for grid in grids
    ]
    return np.array([(one.deletion_auc, one.insertion_auc) for one in found])


def main() -> int:
    """Print the table; the exit code is 1 if a method does not beat random maps on both counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=600, help="stop after that long")
    parser.add_argument("--rows", type=Path, help="keep them here, and go on behind them")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    settings = Settings()
    prepare_tensorflow(settings.worker_threads)
    store = Store(settings.store_home)
    predictor = load_version(store, arguments.model, max_batch_size=BATCH)
    folder = store.path(arguments.model, predictor.version)
    explainer = Explainer(folder, max_batch_size=BATCH, predictor=predictor)
    pictures = recognised(explainer, arguments.folder, arguments.pictures)
    rows = _kept(arguments.rows)
    for image, target in itertools.islice(pictures, len(rows), None):
        if time.monotonic() > until:
            break
        rows.append(measured(explainer, image, target, arguments.steps, seed=len(rows)))
        line = json.dumps(rows[-1].round(4).tolist())
        print(len(rows), target, line, file=sys.stderr, flush=True)
        if arguments.rows:
            with arguments.rows.open("a") as file:
                file.write(f"{line}\n")
    return _print(arguments.model, np.array(rows))


def _kept(file: Path | None) -> list[np.ndarray]:
    """The rows of an earlier run with the same arguments."""
    if file is None or not file.exists():
        return []
    return [np.array(json.loads(line)) for line in file.read_text().splitlines()]


def _print(model: str, found: np.ndarray) -> int:
    """The means, the share of pictures on which a random map does worse, and the verdict.

    Args:
        model: The model's name.
        found: (pictures, 1 + methods, 2).
    """
    table = Table("method", "deletion", "better on", "insertion", "better on", "verdict")
    table.title = f"{model}, {len(found)} pictures"
    means, passed = found.mean(axis=0), True
    for at, name in enumerate([RANDOM, *METHODS]):
        deletion, insertion = means[at]
        below = np.mean(found[:, at, 0] < found[:, 0, 0])
        above = np.mean(found[:, at, 1] > found[:, 0, 1])
        good = bool(deletion < means[0, 0] and insertion > means[0, 1])
        passed = passed and (good or at == 0)
        verdict = "" if at == 0 else "beats random" if good else "NO BETTER"
        shares = ("", "") if at == 0 else (f"{below:.0%}", f"{above:.0%}")
        table.add_row(name, f"{deletion:.3f}", shares[0], f"{insertion:.3f}", shares[1], verdict)
    Console(width=100).print(table)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
