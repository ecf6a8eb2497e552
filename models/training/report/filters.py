"""A layer's kernels, kept every so many steps, so that one can watch them become something."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import keras
import numpy as np

from contracts.training.trainings import TrainingRequest
from models.training.trained import FilterFrame

_MOST_FRAMES = 400  # of an animation that somebody still watches
_MOST_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class FilterFrames:
    """The frames of one training, in its own folder, where they outlive a kill.

    Attributes:
        layer: Whose kernels.
        every: Steps between two frames.
        folder: Where they are kept.
    """

    layer: keras.Layer
    every: int
    folder: Path

    @classmethod
    def of(cls, request: TrainingRequest, model: keras.Model, folder: Path) -> Self | None:
        """None unless frames are asked for; of a layer that `check_filters` has let through."""
        if not request.filters_every:
            return None
        convolutions = [la for la in model.layers if isinstance(la, keras.layers.Conv2D)]
        layer = model.get_layer(request.filters_layer or convolutions[0].name)
        return cls(layer, request.filters_every, folder / "filters")

    def stepped(self, steps: int) -> None:
        """Keep a frame if one is due after so many steps."""
        if steps % self.every:
            return
        path = self.folder / f"{steps:08d}.npy"
        kernels = np.asarray(self.layer.kernel, np.float32)
        if steps // self.every >= min(_MOST_FRAMES, max(1, _MOST_BYTES // kernels.nbytes)):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, kernels)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def all(self) -> tuple[FilterFrame, ...]:
        """The frames so far, in order."""
        return tuple(
            FilterFrame(int(path.stem), np.load(path, allow_pickle=False))
            for path in sorted(self.folder.glob("*.npy"))
        )
