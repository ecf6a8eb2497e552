"""Style transfer in one pass (Ghiasi et al., 2017, arXiv:1705.06830), by OpenVINO.

One network describes an image's style in 100 numbers, another paints a content with them. Numbers
can be mixed: several styles by their shares, and a style with the content's own for its strength.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from contracts.errors import ModelNotReady
from models.create.images import Array, Pixels, resized, to_pixels
from models.create.style.weights import FAST_WEIGHTS
from models.serving.openvino.frontend import import_openvino
from models.weights.catalog import Weights

Numbers = npt.NDArray[np.float32]

_DESCRIBED_SIDE = 256
_STRIDE = 4  # the painting network halves an image twice
TILE_SIDE = 1280
"""Pixels of a tile's side at most. A smaller image is painted in one piece."""
_OVERLAP = 160  # pixels over which two tiles fade into each other


class FastStyle:
    """The two networks.

    Args:
        weights: Where their files are.
        threads: For OpenVINO.

    Raises:
        WeightsMissing: They are not on this machine.
        ModelNotReady: OpenVINO is not installed.
    """

    def __init__(self, weights: Weights, threads: int) -> None:
        file = weights.find(FAST_WEIGHTS)
        try:
            openvino = import_openvino()
        except ImportError:
            raise ModelNotReady(
                "method=fast needs OpenVINO, which is not installed here. Install opsin[worker], "
                "or send method=optimize."
            ) from None
        self._core = openvino.Core()
        self._options = {"INFERENCE_NUM_THREADS": threads}
        self._painter: Path = file.path
        self._compiled: tuple[tuple[int, ...], Any] | None = None
        describer = self._core.read_model(file.companions[0])
        self._describer = self._core.compile_model(describer, "CPU", self._options)

    def describe(self, image: Image.Image) -> Numbers:
        """The 100 numbers of an image's style, from its central square."""
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        pixels = resized(square, (_DESCRIBED_SIDE, _DESCRIBED_SIDE)) / 255
        return np.asarray(self._describer(pixels[np.newaxis])[0], np.float32).ravel()

    def mixed(
        self,
        styles: Sequence[Image.Image],
        shares: Sequence[float],
        content: Image.Image,
        strength: float = 1.0,
    ) -> Numbers:
        """The numbers of several styles and, below the full strength, of the content itself."""
        numbers = sum(
            share * self.describe(style) for style, share in zip(styles, shares, strict=True)
        )
        if strength < 1:
            numbers = strength * numbers + (1 - strength) * self.describe(content)
        return np.asarray(numbers, np.float32)

    def paint(self, content: Array, numbers: Numbers) -> Pixels:
        """The content in the style, at its own size.

        Args:
            content: float32 (height, width, 3), levels of 0 to 255.
            numbers: From `mixed`.
        """
        height, width = content.shape[:2]
        rows, columns = _starts(height), _starts(width)
        if len(rows) == len(columns) == 1:
            return to_pixels(self._paint(content, numbers))
        painted = np.zeros_like(content)
        weights = np.zeros((height, width, 1), np.float32)
        for row in rows:
            for column in columns:
                place = np.s_[row : row + TILE_SIDE, column : column + TILE_SIDE]
                tile = self._paint(content[place], numbers)
                fade = _fade(tile.shape[0])[:, np.newaxis] * _fade(tile.shape[1])
                painted[place] += tile * fade[..., np.newaxis]
                weights[place] += fade[..., np.newaxis]
        painted /= weights
        return to_pixels(painted)

    def _paint(self, content: Array, numbers: Numbers) -> Array:
        height, width = content.shape[:2]
        padding = ((0, -height % _STRIDE), (0, -width % _STRIDE), (0, 0))
        padded = np.pad(content, padding, "symmetric")[np.newaxis] / 255
        outputs = self._network(padded.shape)([padded, numbers.reshape(1, 1, 1, -1)])
        painted = np.asarray(outputs[0], np.float32)[0, :height, :width]
        return painted * 255

    def _network(self, shape: tuple[int, ...]) -> Any:
        """The painting network for images of this shape; the last one is kept."""
        if self._compiled is None or self._compiled[0] != shape:
            model = self._core.read_model(self._painter)
            content, style = model.inputs
            model.reshape({content: list(shape), style: style.partial_shape})
            self._compiled = shape, self._core.compile_model(model, "CPU", self._options)
        return self._compiled[1]


def _starts(side: int) -> Sequence[int]:
    """Where the tiles begin along a side, evenly and with the overlap at least."""
    if side <= TILE_SIDE:
        return [0]
    count = -(-(side - _OVERLAP) // (TILE_SIDE - _OVERLAP))
    return [round(start) for start in np.linspace(0, side - TILE_SIDE, count)]


def _fade(side: int) -> Array:
    """Weights along a tile: rising from its edges over the overlap."""
    ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)) / _OVERLAP
    return np.minimum(ramp, 1).astype(np.float32)
