"""Where a phase's batches come from: remembered features, or the pictures themselves."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from contracts.training.trainings import Augmentation, Phase
from models.catalog import Preprocessing
from models.networks.preprocessing import preprocess
from models.training.data.augmentation import apply, draw
from models.training.data.feature_cache import Features
from models.training.data.image_loader import Pictures, Places
from models.training.data.rng import augmentation_chance, chosen_views

Inputs = tuple[npt.NDArray[Any], ...]


class Source(Protocol):
    """Some pictures, as what learns takes them."""

    def __len__(self) -> int: ...

    def batches(self, places: Sequence[Places], epoch: int | None) -> Iterator[Inputs]:
        """One batch for each array of positions.

        Args:
            places: Positions of each batch's pictures.
            epoch: In which the pictures are varied; None: they are shown as they are.
        """
        ...


class FeatureSource:
    """What a frozen trunk answered, of each picture and of its views.

    Args:
        views: (n, …) each; the first is of the pictures as they are.
        seed: Of the training.
        phase: That is fed.
    """

    def __init__(self, views: tuple[Features, ...], seed: int, phase: Phase) -> None:
        self._views = views
        self._seed, self._phase = seed, phase

    def __len__(self) -> int:
        return len(self._views[0])

    def batches(self, places: Sequence[Places], epoch: int | None) -> Iterator[Inputs]:
        chosen = np.zeros(len(self), np.int64)
        if epoch is not None and len(self._views) > 1:
            chosen = chosen_views(len(self), len(self._views), self._seed, self._phase, epoch)
        for batch in places:
            picked = [self._views[chosen[place]][place] for place in batch.tolist()]
            yield (np.stack(picked),)


class PictureSource:
    """Decoded pictures; in an epoch each comes with how it is to be varied.

    Args:
        pictures: Which.
        augmentation: How far they may be varied.
        seed: Of the training.
        phase: That is fed.
    """

    def __init__(
        self, pictures: Pictures, augmentation: Augmentation, seed: int, phase: Phase
    ) -> None:
        self._pictures = pictures
        self._augmentation = augmentation
        self._seed, self._phase = seed, phase

    def __len__(self) -> int:
        return len(self._pictures)

    def batches(self, places: Sequence[Places], epoch: int | None) -> Iterator[Inputs]:
        decoded = self._pictures.batches(places)
        if epoch is None or not self._augmentation.active:
            yield from ((pixels,) for pixels in decoded)
            return
        chance = augmentation_chance(self._seed, self._phase, epoch)
        drawn = draw(self._augmentation, len(self), self._pictures.input_size, chance)
        for batch, pixels in zip(places, decoded, strict=True):
            yield pixels, drawn.maps[batch], drawn.brightness[batch]


def in_graph(kind: Preprocessing, fill_mode: str) -> Callable[..., Any]:
    """What turns a `PictureSource`'s arrays into what a network takes, varied if they say how."""

    def prepared(pixels: Any, maps: Any = None, brightness: Any = None) -> Any:
        if maps is not None:
            pixels = apply(pixels, maps, brightness, fill_mode)
        return preprocess(kind, pixels)

    return prepared


def as_they_are(features: Any) -> Any:
    """What a `FeatureSource` gives is what the tail takes."""
    return features
