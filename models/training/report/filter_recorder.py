"""Records a layer every few steps, for animations of how its kernels and responses develop."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.training.trainings import TrainingRequest
from models.training.trained import FilterFrame, ResponseFrame

_MAX_FRAMES = 400
_MAX_BYTES = 64 * 1024**2
_RESPONSE_CHANNELS, _RESPONSE_SIDE = 16, 96

Response = Callable[[keras.Layer], npt.NDArray[np.float32]]
"""What a layer makes of one image: (height, width, channels)."""


@dataclass(frozen=True, slots=True)
class FilterRecorder:
    """Records frames in the job's folder, where they survive a crash.

    Attributes:
        layer: The recorded layer.
        every: Steps between two frames.
        folder: The job's folder.
        respond: Computes a response; None if no image may be shown.
    """

    layer: keras.Layer
    every: int
    folder: Path
    respond: Response | None = None

    @classmethod
    def of(
        cls,
        request: TrainingRequest,
        model: keras.Model,
        folder: Path,
        respond: Response | None = None,
    ) -> Self | None:
        """The recorder that a request asks for; its layer has passed `check_filters_layer`."""
        if not request.filters_every:
            return None
        convolutions = [la for la in model.layers if isinstance(la, keras.layers.Conv2D)]
        layer = model.get_layer(request.filters_layer or convolutions[0].name)
        return cls(layer, request.filters_every, folder, respond)

    def record(self, steps: int) -> None:
        """Store a frame if one is due after this number of steps."""
        if steps % self.every:
            return
        self._store("filters", steps, np.asarray(self.layer.kernel, np.float32))
        if self.respond is not None:
            self._store("responses", steps, _reduced(self.respond(self.layer)))

    def frames(self) -> tuple[FilterFrame, ...]:
        """The kernels so far, in order."""
        return tuple(FilterFrame(step, kernels) for step, kernels in self._stored("filters"))

    def responses(self) -> tuple[ResponseFrame, ...]:
        """The responses so far, in order."""
        return tuple(ResponseFrame(step, maps) for step, maps in self._stored("responses"))

    def _store(self, kind: str, steps: int, values: npt.NDArray[np.floating]) -> None:
        if steps // self.every >= min(_MAX_FRAMES, max(1, _MAX_BYTES // values.nbytes)):
            return
        path = self.folder / kind / f"{steps:08d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.save(file, values)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _stored(self, kind: str) -> Sequence[tuple[int, npt.NDArray[np.floating]]]:
        return [
            (int(path.stem), np.load(path, allow_pickle=False))
            for path in sorted((self.folder / kind).glob("*.npy"))
        ]


def response_of(model: keras.Model, image: npt.NDArray[np.float32]) -> Response:
    """Computes what the layers of a network make of one image, with its present weights.

    Args:
        model: The network in training.
        image: (1, height, width, channels), preprocessed.
    """
    traced: dict[str, Callable[[], tf.Tensor]] = {}

    def respond(layer: keras.Layer) -> npt.NDArray[np.float32]:
        if layer.name not in traced:
            part = keras.Model(model.inputs, layer.output)
            traced[layer.name] = tf.function(lambda: part(tf.constant(image), training=False)[0])
        return np.asarray(tf.cast(traced[layer.name](), tf.float32), np.float32)

    return respond


def _reduced(maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """The first channels, averaged over blocks until no side is longer than the limit."""
    block = math.ceil(max(maps.shape[:2]) / _RESPONSE_SIDE)
    height, width = (side // block * block for side in maps.shape[:2])
    blocks = maps[:height, :width, :_RESPONSE_CHANNELS].reshape(
        height // block, block, width // block, block, -1
    )
    reduced: npt.NDArray[np.float16] = blocks.mean(axis=(1, 3)).astype(np.float16)
    return reduced
