"""What a phase's batches are made of: cached features, or the decoded images themselves."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contracts.training.training_options import Augmentation
from contracts.training.trainings import Phase
from models.catalog import Preprocessing
from models.networks.preprocessing import prepare
from models.training.data.augmentation import apply_transforms, draw_transforms
from models.training.data.feature_cache import Features
from models.training.data.image_loader import ImageLoader, Indices
from models.training.data.rng import augmentation_rng, choose_views

Inputs = tuple[npt.NDArray[Any], ...]
Preprocess = Callable[..., Any]
"""Turns a source's arrays into the input of a network, inside a TensorFlow graph."""


class Source(Protocol):
    """The images of one split as arrays to train on or to evaluate."""

    def __len__(self) -> int: ...

    def batches(self, indices: Sequence[Indices], epoch: int | None) -> Iterator[Inputs]:
        """Yield one batch for each array of indices.

        Args:
            indices: The images of each batch.
            epoch: The epoch whose augmentation is applied; None for no augmentation.
        """
        ...


class FeatureSource:
    """Features that a frozen base has computed.

    Args:
        views: (n, …) each; the first holds the features of the original images.
        seed: The training's seed.
        phase: The phase that trains on them.
    """

    def __init__(self, views: tuple[Features, ...], seed: int, phase: Phase) -> None:
        self._views = views
        self._seed, self._phase = seed, phase

    def __len__(self) -> int:
        return len(self._views[0])

    def batches(self, indices: Sequence[Indices], epoch: int | None) -> Iterator[Inputs]:
        views = np.zeros(len(self), np.int64)
        if epoch is not None and len(self._views) > 1:
            views = choose_views(len(self), len(self._views), self._seed, self._phase, epoch)
        for batch in indices:
            yield (np.stack([self._views[views[index]][index] for index in batch.tolist()]),)


class ImageSource:
    """Decoded images; during an epoch each batch comes with its augmentation transforms.

    Args:
        images: Decodes them.
        augmentation: Ranges of the augmentation.
        seed: The training's seed.
        phase: The phase that trains on them.
    """

    def __init__(
        self, images: ImageLoader, augmentation: Augmentation, seed: int, phase: Phase
    ) -> None:
        self._images = images
        self._augmentation = augmentation
        self._seed, self._phase = seed, phase

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, indices: Sequence[Indices], epoch: int | None) -> Iterator[Inputs]:
        decoded = self._images.batches(indices)
        if epoch is None or not self._augmentation.active:
            yield from ((pixels,) for pixels in decoded)
            return
        rng = augmentation_rng(self._seed, self._phase, epoch)
        size = self._images.spec.input_size
        transforms = draw_transforms(self._augmentation, len(self), size, rng)
        for batch, pixels in zip(indices, decoded, strict=True):
            yield pixels, *transforms.rows(batch)


def augment_and_preprocess(
    kind: Preprocessing, options: Augmentation, channels: int = 3
) -> Preprocess:
    """The `Preprocess` for an `ImageSource`: augments if transforms are given.

    Args:
        kind: The network's preprocessing.
        options: How pixels outside a transformed image are filled.
        channels: Of the network's input.
    """

    def run(pixels: Any, affine: Any = None, gain: Any = None, offset: Any = None) -> Any:
        if affine is not None:
            pixels = apply_transforms(pixels, affine, gain, offset, options)
        return prepare(kind, pixels, channels)

    return run


def identity(features: Any) -> Any:
    """The `Preprocess` for a `FeatureSource`: features need none."""
    return features
