"""Training the head of a frozen VGG16: with cached features, and the naive way, in one run.

    OPSIN_WEIGHTS_DIR=… python -m benchmarks.training.cached_features FOLDER   # --epochs, --size

FOLDER holds `train/` with one folder per class. The naive way runs the base for every image of each
epoch, with the same compiled step, after a warm-up. The cached way is measured completely, with
compilation, features and all epochs, from an empty cache: in the precision of a normal training
and, if that differs, in float32 like the naive way. Validation is left out.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from contracts.settings import Settings
from contracts.training.trainings import TrainingRequest
from models.datasets.dataset import Dataset, Example
from models.export.signatures import Blueprint
from models.images.decode import InputSpec
from models.networks.precision import Precision
from models.training.data.feature_cache import FeatureCache
from models.training.data.features import FeatureExtractor, compile_trunk
from models.training.data.image_loader import ImageLoader
from models.training.data.sources import (
    FeatureSource,
    ImageSource,
    Preprocess,
    Source,
    augment_and_preprocess,
    identity,
)
from models.training.loop.assembly import Assembly, assemble
from models.training.loop.freezing import Cut, cut_below, freeze
from models.training.loop.hardware import Hardware
from models.training.loop.learner import Batch, Learner, Objective
from models.training.loop.network_defaults import blueprint_of, input_size_of
from models.weights.catalog import Weights

_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Bench:
    """What both ways share.

    Attributes:
        request: The training.
        assembly: Its network, with the base frozen.
        cut: Where the frozen part ends.
        blueprint: Its preprocessing.
        hardware: Devices and precision.
        images: All images, decoded.
        truth: int32 (n,).
    """

    request: TrainingRequest
    assembly: Assembly
    cut: Cut
    blueprint: Blueprint
    hardware: Hardware
    images: ImageLoader
    truth: np.ndarray

    @property
    def size(self) -> int:
        """Batch size."""
        return min(self.request.batch_size, len(self.truth))

    def naive(self, count: int) -> float:
        """Seconds of the epochs if each of them runs the base."""
        preprocess = augment_and_preprocess(self.blueprint.preprocessing, self.request.augmentation)
        learner = self._learner(self.assembly.model, preprocess)
        source = ImageSource(self.images, self.request.augmentation, self.request.seed, "head")
        first = np.arange(self.size)
        for arrays in source.batches([first], 0):
            learner.step(self._batch(arrays, first), 0.0)
        return self._epochs(learner, source, count)

    def cached(self, count: int, precision: Precision) -> tuple[float, float]:
        """Seconds of the features, and of the epochs on them."""
        learner = self._learner(self.cut.tail, identity)
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            extractor = FeatureExtractor(
                self.cut,
                self.blueprint,
                FeatureCache(Path(scratch) / "cache"),
                self.request.augmentation,
                compile_trunk(self.cut.trunk, self.blueprint, self.request.augmentation, precision),
                precision=precision,
            )
            features = extractor.extract(self.images, Path(scratch), lambda _count: None)
            seconds = time.perf_counter() - began
            source = FeatureSource(features, self.request.seed, "head")
            return seconds, self._epochs(learner, source, count)

    def _learner(self, model: Any, preprocess: Preprocess) -> Learner:
        return Learner(
            model,
            objective=Objective("adam", _RATE),
            preprocess=preprocess,
            hardware=self.hardware,
        )

    def _epochs(self, learner: Learner, source: Source, count: int) -> float:
        began = time.perf_counter()
        complete = len(source) // self.size * self.size
        for epoch in range(count):
            order = np.random.default_rng(epoch).permutation(len(source))[:complete]
            indices = list(order.reshape(-1, self.size))
            for batch, arrays in zip(indices, source.batches(indices, epoch), strict=True):
                learner.step(self._batch(arrays, batch), _RATE)
        return time.perf_counter() - began

    def _batch(self, arrays: Any, indices: np.ndarray) -> Batch:
        ones = np.ones(self.size, np.float32)
        return Batch(arrays, self.truth[indices], ones, ones)


def labeled(folder: Path, limit: int) -> Dataset:
    """The first images of each class, all for training."""
    examples = tuple(
        Example(path, kind.name, "train", hashlib.sha256(path.read_bytes()).hexdigest())
        for kind in sorted((folder / "train").iterdir())
        for path in sorted(kind.iterdir())[:limit]
    )
    return Dataset(
        folder.name, "", tuple(sorted({example.label for example in examples})), examples
    )


@contextmanager
def opened(dataset: Dataset, side: int) -> Iterator[Bench]:
    """VGG16 with its base frozen, and all images decoded in advance.

    Args:
        dataset: The training images.
        side: Side of the input in pixels.
    """
    request = TrainingRequest(
        dataset_id="ds_bench", model="bench", network="vgg16", image_size=side
    )
    truth = np.array(
        [dataset.classes.index(example.label) for example in dataset.examples], np.int32
    )
    assembly = assemble(request, len(dataset.classes), Weights.of(Settings()))
    freeze(assembly, "head", None)
    cut, blueprint = cut_below(assembly.model), blueprint_of(request)
    if cut is None:
        raise SystemExit("no part of the network is frozen")
    with ImageLoader(
        dataset.examples,
        InputSpec(input_size_of(request), blueprint.short_side, blueprint.geometry),
        max_pixels=50_000_000,
        memory_bytes=2**30,
        threads=2,
    ) as images:
        list(images.batches([np.arange(len(truth))]))
        yield Bench(request, assembly, cut, blueprint, Hardware.of(request), images, truth)


def main() -> int:
    """Print all times and ratios; the exit code is 1 if caching is less than ten times as fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--naive-epochs", type=int, help="measured and extrapolated; default: all")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--images", type=int, default=300, help="maximum of each class")
    arguments = parser.parse_args()
    console, measured = Console(width=120), arguments.naive_epochs or arguments.epochs
    with opened(labeled(arguments.folder, arguments.images), arguments.size) as bench:
        console.print(f"{len(bench.truth)} images, {arguments.size} px, {arguments.epochs} epochs")
        naive = bench.naive(measured) * arguments.epochs / measured
        console.print(f"naive, float32    {naive:8.1f} s  (measured: {measured} epochs)")
        usual = bench.hardware.feature_precision(bench.request)
        ratios = []
        for precision in dict.fromkeys((usual, "float32")):
            features, head = bench.cached(arguments.epochs, precision)
            ratios.append(naive / (features + head))
            console.print(
                f"cached, {precision:9} {features + head:8.1f} s  "
                f"(features {features:.1f}, head {head:.1f}): {ratios[-1]:.1f} times as fast"
            )
    return 0 if ratios[0] >= 10 else 1


if __name__ == "__main__":
    sys.exit(main())
