"""One version of a model, asked for its reasons."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.explanation import LayerInfo, Method
from contracts.messages import Pixels

Grids = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int32]


class Explainer:
    """A version that says why. `model.keras` is read when it is first needed, and once.

    Args:
        folder: The version's own, from `Store.path`.
        max_batch_size: Most pictures that run together.

    Attributes:
        layers: Its layers, input first.
    """

    layers: tuple[LayerInfo, ...]

    def __init__(self, folder: Path, *, max_batch_size: int) -> None:
        raise NotImplementedError

    def heatmaps(
        self,
        method: Method,
        images: Pixels,
        classes: Classes,
        layer: str | None = None,
        *,
        progress: Callable[[float], None] | None = None,
        seed: int = 0,
    ) -> Grids:
        """Why each picture would be of its class: float32 (n, gh, gw) in 0..1, never NaN."""
        raise NotImplementedError

    def probabilities(self, images: Pixels) -> Grids:
        """float32 (n, classes)."""
        raise NotImplementedError

    def activations(self, images: Pixels, layer: str) -> Grids:
        """float32 (n, gh, gw, channels)."""
        raise NotImplementedError
