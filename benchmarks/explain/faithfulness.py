"""Deletion and insertion AUC of each method, compared with random maps, on labeled images.

    python -m benchmarks.explain.faithfulness FOLDER --model squeezenet --images 50

FOLDER holds images and a `labels.csv` with the columns file and class_index. The images that the
network classifies correctly are used, in that order, and the labeled class is explained. A method
that is no better than a random map says nothing about what the network looks at.

Fifty images take a quarter of an hour on an idle core. `--rows FILE` stores the results, one line
of JSON per image, and resumes from them, so that with `--minutes` the work can be done in parts.
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

from benchmarks.labels import labeled
from contracts.inference.explanation import METHODS, Faithfulness
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from models.explain.explainer import Explainer
from models.explain.faithfulness import STEPS, faithfulness
from models.images.decode import decode
from models.serving.devices import prepare_tensorflow
from models.serving.predictor import load_version
from models.store.snapshot import ServedVersion
from models.store.store import Store

RANDOM = "random map"
BATCH = 16


def correctly_classified(
    explainer: Explainer, folder: Path, limit: int
) -> Iterator[tuple[Pixels, int]]:
    """Images in the network's input size whose labeled class is the most probable."""
    served = ServedVersion(explainer.manifest, ())
    for path, label in labeled(folder):
        image = decode(
            path.read_bytes(), network=served, max_pixels=Settings().max_image_pixels
        ).pixels
        if limit and explainer.probabilities(image[np.newaxis])[0].argmax() == label:
            limit -= 1
            yield image, label


def measure(explainer: Explainer, image: Pixels, target: int, steps: int, seed: int) -> np.ndarray:
    """Both AUCs of a random map and of each method, (1 + methods, 2)."""
    classes = np.array([target], np.int32)
    grids = [
        explainer.heatmaps(method, image[np.newaxis], classes, seed=seed)[0] for method in METHODS
    ]
    grids.insert(0, np.random.default_rng(seed).random(grids[0].shape, np.float32))
    results: list[Faithfulness] = [
        faithfulness(explainer.probabilities, image, grid, target, steps) for grid in grids
    ]
    return np.array([(result.deletion_auc, result.insertion_auc) for result in results])


def main() -> int:
    """Print the table; the exit code is 1 if a method does not beat random maps on both counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, default=600, help="stop after this time")
    parser.add_argument("--rows", type=Path, help="store results here and resume from them")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    settings = Settings()
    prepare_tensorflow(settings.worker_threads)
    store = Store(settings.store_home)
    predictor = load_version(store, arguments.model, max_batch_size=BATCH)
    folder = store.path(arguments.model, predictor.version)
    explainer = Explainer(folder, max_batch_size=BATCH, predictor=predictor)
    images = correctly_classified(explainer, arguments.folder, arguments.images)
    rows = _stored_rows(arguments.rows)
    for image, target in itertools.islice(images, len(rows), None):
        if time.monotonic() > until:
            break
        rows.append(measure(explainer, image, target, arguments.steps, seed=len(rows)))
        line = json.dumps(rows[-1].round(4).tolist())
        print(len(rows), target, line, file=sys.stderr, flush=True)
        if arguments.rows:
            with arguments.rows.open("a") as file:
                file.write(f"{line}\n")
    return _print(arguments.model, np.array(rows))


def _stored_rows(file: Path | None) -> list[np.ndarray]:
    """The rows of an earlier run with the same arguments."""
    if file is None or not file.exists():
        return []
    return [np.array(json.loads(line)) for line in file.read_text().splitlines()]


def _print(model: str, aucs: np.ndarray) -> int:
    """Print the means, the share of images on which a random map is worse, and the verdict.

    Args:
        model: Name of the model.
        aucs: (images, 1 + methods, 2).
    """
    table = Table("method", "deletion", "better on", "insertion", "better on", "verdict")
    table.title = f"{model}, {len(aucs)} images"
    means, passed = aucs.mean(axis=0), True
    for index, name in enumerate([RANDOM, *METHODS]):
        deletion, insertion = means[index]
        below = np.mean(aucs[:, index, 0] < aucs[:, 0, 0])
        above = np.mean(aucs[:, index, 1] > aucs[:, 0, 1])
        good = bool(deletion < means[0, 0] and insertion > means[0, 1])
        passed = passed and (good or index == 0)
        verdict = "" if index == 0 else "beats random" if good else "NOT BETTER"
        shares = ("", "") if index == 0 else (f"{below:.0%}", f"{above:.0%}")
        table.add_row(name, f"{deletion:.3f}", shares[0], f"{insertion:.3f}", shares[1], verdict)
    Console(width=100).print(table)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
