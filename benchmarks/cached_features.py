"""A frozen VGG16's head, trained on remembered features and the naive way, in one run.

    OPSIN_WEIGHTS_DIR=… python -m benchmarks.cached_features FOLDER   # --epochs 10 --size 150

FOLDER holds `train/` with a folder a class. The naive way runs the base anew for every picture of
every epoch, with a compiled step like the other's, after a warm-up. The cached way is measured
whole, compilation included: features and all epochs, from an empty cache; once as a training does
it, and once in the naive way's float32 where that is something else. Validation is left out of all.
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
from models.networks.precision import Precision
from models.training.data.feature_cache import FeatureCache
from models.training.data.features import Extractor, compiled
from models.training.data.image_loader import Pictures
from models.training.data.sources import FeatureSource, PictureSource, Source, as_they_are, in_graph
from models.training.loop.assembly import Assembly, assemble
from models.training.loop.freezing import Cut, cut_below, freeze
from models.training.loop.hardware import Hardware
from models.training.loop.learner import Batch, Learner
from models.training.loop.recipe import blueprint_of, input_size_of
from models.weights.catalog import Weights

_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Bench:
    """What both ways share.

    Attributes:
        request: The training.
        assembly: Its network, the base frozen.
        cut: Where the frozen part ends.
        blueprint: How pictures become its input.
        hardware: What it runs on.
        pictures: All of them, decoded.
        truth: int32 (n,).
    """

    request: TrainingRequest
    assembly: Assembly
    cut: Cut
    blueprint: Blueprint
    hardware: Hardware
    pictures: Pictures
    truth: np.ndarray

    @property
    def size(self) -> int:
        """Of a batch."""
        return min(self.request.batch_size, len(self.truth))

    def naive(self, count: int) -> float:
        """Seconds that so many epochs take with the base run anew in each."""
        look = in_graph(self.blueprint.preprocessing, "nearest")
        learner = self._learner(self.assembly.model, prepare=look, look=look)
        source = PictureSource(self.pictures, self.request.augmentation, self.request.seed, "head")
        first = np.arange(self.size)
        for arrays in source.batches([first], 0):
            learner.step(self._batch(arrays, first), 0.0)
        return self._epochs(learner, source, count)

    def cached(self, count: int, precision: Precision) -> tuple[float, float]:
        """Seconds that the features and so many epochs on them take."""
        learner = self._learner(self.cut.tail, prepare=as_they_are, look=as_they_are)
        with tempfile.TemporaryDirectory() as scratch:
            began = time.perf_counter()
            extractor = Extractor(
                self.cut,
                self.blueprint,
                FeatureCache(Path(scratch) / "cache"),
                self.request.augmentation,
                compiled(self.cut.trunk, self.blueprint, "nearest", precision),
                precision=precision,
            )
            features = extractor.run(self.pictures, Path(scratch), lambda _count: None)
            seconds = time.perf_counter() - began
            source = FeatureSource(features, self.request.seed, "head")
            return seconds, self._epochs(learner, source, count)

    def _learner(self, model: Any, **how: Any) -> Learner:
        return Learner(
            model, optimizer="adam", learning_rate=_RATE, l2=0.0, hardware=self.hardware, **how
        )

    def _epochs(self, learner: Learner, source: Source, count: int) -> float:
        began = time.perf_counter()
        whole = len(source) // self.size * self.size
        for epoch in range(count):
            order = np.random.default_rng(epoch).permutation(len(source))[:whole]
            places = list(order.reshape(-1, self.size))
            for batch, arrays in zip(places, source.batches(places, epoch), strict=True):
                learner.step(self._batch(arrays, batch), _RATE)
        return time.perf_counter() - began

    def _batch(self, arrays: Any, places: np.ndarray) -> Batch:
        ones = np.ones(self.size, np.float32)
        return Batch(arrays, self.truth[places], ones, ones)


def labelled(folder: Path, most: int) -> Dataset:
    """The first pictures of each class, all to learn from."""
    examples = tuple(
        Example(path, kind.name, "train", hashlib.sha256(path.read_bytes()).hexdigest())
        for kind in sorted((folder / "train").iterdir())
        for path in sorted(kind.iterdir())[:most]
    )
    return Dataset(folder.name, "", tuple(sorted({one.label for one in examples})), examples)


@contextmanager
def opened(dataset: Dataset, side: int) -> Iterator[Bench]:
    """VGG16 with its base frozen, and the pictures decoded, so that all ways find them so.

    Args:
        dataset: To learn from.
        side: Of the input, in pixels.
    """
    request = TrainingRequest(
        dataset_id="ds_bench", model="bench", network="vgg16", image_size=side
    )
    truth = np.array([dataset.classes.index(one.label) for one in dataset.examples], np.int32)
    assembly = assemble(request, len(dataset.classes), Weights.of(Settings()))
    freeze(assembly, "head", None)
    cut, blueprint = cut_below(assembly.model), blueprint_of(request)
    if cut is None:
        raise SystemExit("nothing of the network is frozen")
    with Pictures(
        dataset.examples,
        blueprint,
        input_size_of(request),
        max_pixels=50_000_000,
        memory_bytes=2**30,
        threads=2,
    ) as pictures:
        list(pictures.batches([np.arange(len(truth))]))
        yield Bench(request, assembly, cut, blueprint, Hardware.of(request), pictures, truth)


def main() -> int:
    """Print all times and the ratios; the exit code is 1 below ten."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--naive-epochs", type=int, help="Measured, and scaled. Default: all.")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--pictures", type=int, default=300, help="of each class, at most")
    given = parser.parse_args()
    console, measured = Console(width=120), given.naive_epochs or given.epochs
    with opened(labelled(given.folder, given.pictures), given.size) as bench:
        console.print(f"{len(bench.truth)} pictures, {given.size} px, {given.epochs} epochs")
        naive = bench.naive(measured) * given.epochs / measured
        console.print(f"naive, float32    {naive:8.1f} s  (measured: {measured} epochs)")
        usual = bench.hardware.learning_features(bench.request)
        ratios = []
        for precision in dict.fromkeys((usual, "float32")):
            features, head = bench.cached(given.epochs, precision)
            ratios.append(naive / (features + head))
            console.print(
                f"cached, {precision:9} {features + head:8.1f} s  "
                f"(features {features:.1f}, head {head:.1f}): {ratios[-1]:.1f} times as fast"
            )
    return 0 if ratios[0] >= 10 else 1


if __name__ == "__main__":
    sys.exit(main())
