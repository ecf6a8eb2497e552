"""A frozen VGG16's head, trained on remembered features and the naive way, in one run.

    OPSIN_WEIGHTS_DIR=… python -m benchmarks.cached_features FOLDER   # --epochs 10 --size 150

FOLDER holds `train/` with a folder a class. The naive way runs the base anew for every picture of
every epoch, with a compiled step like the other's; one epoch of it is measured, after a warm-up,
and counted as often as there are epochs. The cached way is measured whole: features and all
epochs, from an empty cache. Validation is left out of both.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from contracts.settings import Settings
from contracts.trainings import TrainingRequest
from models.datasets.dataset import Dataset, Example
from models.training.assembly import assemble
from models.training.feature_cache import FeatureCache
from models.training.features import Extractor, compiled
from models.training.freezing import cut_below, freeze
from models.training.hardware import Hardware
from models.training.learner import Batch, Learner
from models.training.pictures import Pictures
from models.training.recipe import blueprint_of, input_size_of
from models.training.sources import FeatureSource, PictureSource, Source, as_they_are, in_graph
from models.weights import Weights


def labelled(folder: Path, most: int) -> Dataset:
    """The first pictures of each class, all to learn from."""
    examples = tuple(
        Example(path, kind.name, "train", hashlib.sha256(path.read_bytes()).hexdigest())
        for kind in sorted((folder / "train").iterdir())
        for path in sorted(kind.iterdir())[:most]
    )
    return Dataset(folder.name, "", tuple(sorted({one.label for one in examples})), examples)


def epochs(learner: Learner, source: Source, truth: np.ndarray, size: int, count: int) -> float:
    """Seconds that so many epochs take."""
    began = time.perf_counter()
    whole = len(source) // size * size
    for epoch in range(count):
        places = list(
            np.random.default_rng(epoch).permutation(len(source))[:whole].reshape(-1, size)
        )
        for batch, arrays in zip(places, source.batches(places, epoch), strict=True):
            ones = np.ones(size, np.float32)
            learner.step(Batch(arrays, truth[batch], ones, ones), 1e-3)
    return time.perf_counter() - began


def main() -> int:
    """Print both times and their ratio; the exit code is 1 below ten."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--pictures", type=int, default=300, help="of each class, at most")
    given = parser.parse_args()
    request = TrainingRequest(
        dataset_id="ds_bench", model="bench", network="vgg16", image_size=given.size
    )
    dataset = labelled(given.folder, given.pictures)
    truth = np.array([dataset.classes.index(one.label) for one in dataset.examples], np.int32)
    assembly = assemble(request, len(dataset.classes), Weights.of(Settings()))
    freeze(assembly, "head", None)
    cut, blueprint, hardware = (
        cut_below(assembly.model),
        blueprint_of(request),
        Hardware.of(request),
    )
    if cut is None:
        raise SystemExit("nothing of the network is frozen")
    look = in_graph(blueprint.preprocessing, "nearest")
    said = {"optimizer": "adam", "learning_rate": 1e-3, "l2": 0.0, "hardware": hardware}
    naive = Learner(assembly.model, prepare=look, look=look, **said)
    cached = Learner(cut.tail, prepare=as_they_are, look=as_they_are, **said)
    size = min(request.batch_size, len(truth))
    with (
        tempfile.TemporaryDirectory() as scratch,
        Pictures(
            dataset.examples, blueprint, input_size_of(request),
            max_pixels=50_000_000, memory_bytes=2**30, threads=2,
        ) as pictures,
    ):  # fmt: skip
        source = PictureSource(pictures, request.augmentation, request.seed, "head")
        everything = np.arange(len(truth))
        list(pictures.batches([everything]))  # both ways find them decoded
        warm = PictureSource(pictures, request.augmentation, request.seed, "head")
        places = [everything[:size]]
        for arrays in warm.batches(places, 0):
            ones = np.ones(size, np.float32)
            naive.step(Batch(arrays, truth[:size], ones, ones), 0.0)
        naive_seconds = epochs(naive, source, truth, size, 1) * given.epochs
        began = time.perf_counter()
        cache = FeatureCache(Path(scratch) / "cache")
        precision = hardware.learning_features(request)
        forward = compiled(cut.trunk, blueprint, "nearest", precision)
        extractor = Extractor(
            cut, blueprint, cache, request.augmentation, forward, precision=precision
        )
        features = extractor.run(pictures, Path(scratch), lambda _count: None)
        feature_seconds = time.perf_counter() - began
        head_seconds = epochs(
            cached, FeatureSource(features, request.seed, "head"), truth, size, given.epochs
        )
    ratio = naive_seconds / (feature_seconds + head_seconds)
    Console().print(
        f"{len(truth)} pictures, {given.size} px, {given.epochs} epochs\n"
        f"naive   {naive_seconds:8.1f} s  (one epoch x {given.epochs})\n"
        f"cached  {feature_seconds + head_seconds:8.1f} s  "
        f"(features {feature_seconds:.1f}, head {head_seconds:.1f})\n"
        f"ratio   {ratio:8.1f}"
    )
    return 0 if ratio >= 10 else 1


if __name__ == "__main__":
    sys.exit(main())
