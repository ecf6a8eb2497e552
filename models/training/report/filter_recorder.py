"""Records the kernels of a layer every few steps, for an animation of how they develop."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import keras
import numpy as np

from contracts.training.trainings import TrainingRequest
from models.training.trained import FilterFrame

_MAX_FRAMES = 400
_MAX_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class FilterRecorder:
    """Records frames in the job's folder, where they survive a crash.

    Attributes:
        layer: The layer whose kernels are recorded.
        every: Steps between two frames.
        folder: Where the frames are stored.
    """

    layer: keras.Layer
    every: int
    folder: Path

    @classmethod
    def of(cls, request: TrainingRequest, model: keras.Model, folder: Path) -> Self | None:
        """The recorder that a request asks for; its layer has passed `check_filters_layer`."""
        if not request.filters_every:
            return None
        convolutions = [la for la in model.layers if isinstance(la, keras.layers.Conv2D)]
        layer = model.get_layer(request.filters_layer or convolutions[0].name)
        return cls(layer, request.filters_every, folder / "filters")

    def record(self, steps: int) -> None:
        """Store a frame if one is due after this number of steps."""
        if steps % self.every:
            return
        path = self.folder / f"{steps:08d}.npy"
        kernels = np.asarray(self.layer.kernel, np.float32)
        if steps // self.every >= min(_MAX_FRAMES, max(1, _MAX_BYTES // kernels.nbytes)):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, kernels)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def frames(self) -> tuple[FilterFrame, ...]:
        """The frames so far, in order."""
        return tuple(
            FilterFrame(int(path.stem), np.load(path, allow_pickle=False))
            for path in sorted(self.folder.glob("*.npy"))
        )
