"""3x3 convolutions with a quarter of the multiplications (Lavin and Gray, 2016, arXiv:1509.09308).

Winograd's F(4x4, 3x3): tiles of 6x6 pixels and the kernels are transformed by a few additions,
multiplied, and transformed back to 4x4 results. A processor's own convolution already computes
near its limit, so fewer multiplications are what makes it faster. The transforms move much memory
unless they are fused, which XLA does. Results differ from a plain convolution in the fifth digit.
"""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.create.edges import ONE_PIXEL, EdgeConv2D, is_padded

Tensor = Any
Matrix = npt.NDArray[np.float32]

_MIN_CHANNELS, _MIN_PRODUCT = 64, 64 * 128
"""Of input and output; with fewer, the transforms cost more than is saved."""
_IMAGE = np.array(  # B' of the paper
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float32,
)
_KERNEL = np.array(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float32,
)
_RESULT = np.array(  # A'
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    np.float32,
)
_IMAGES, _RESULTS = np.kron(_IMAGE, _IMAGE), np.kron(_RESULT, _RESULT)
"""Both for rows and columns at once."""


class WinogradConv2D(keras.layers.Conv2D):  # type: ignore[misc]
    """A convolution whose kernel no longer changes; the gradient is that of its images alone."""

    def fix(self, *, edges: bool) -> None:
        """Transform the kernel, once its values are set.

        Args:
            edges: Whether to repeat the outermost pixels, as `EdgeConv2D` does.
        """
        kernel = np.asarray(self.kernel)
        parts = np.einsum("ia,jb,abck->ijck", _KERNEL, _KERNEL, kernel)
        self._parts = tf.constant(parts.reshape(36, *kernel.shape[2:]))
        self._edges = edges

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """As the base class, with the transformed kernel."""
        del kernel
        parts, edges = self._parts, self._edges

        def convolved(images: Tensor) -> tuple[Tensor, Any]:
            found = _compiled(images, parts, edges)
            return found, lambda gradient: _compiled_back(gradient, parts, edges)

        return tf.custom_gradient(convolved)(inputs)


def with_winograd(model: keras.Model) -> keras.Model:
    """A copy of a float32 network that computes its larger 3x3 convolutions in this way."""

    def clone(layer: keras.Layer) -> keras.Layer:
        kind = type(layer)
        if _is_suitable(layer):
            kind = WinogradConv2D
        return kind.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    for layer, original in zip(copy.layers, model.layers, strict=True):
        if isinstance(layer, WinogradConv2D):
            layer.fix(edges=isinstance(original, EdgeConv2D))
    return copy


def _is_suitable(layer: keras.Layer) -> bool:
    if not is_padded(layer):
        return False
    channels, filters = (int(count) for count in layer.kernel.shape[2:])
    return min(channels, filters) >= _MIN_CHANNELS and channels * filters >= _MIN_PRODUCT


def _convolved(images: Tensor, parts: Tensor, edges: bool) -> Tensor:
    """The convolution.

    Args:
        images: float32 (count, height, width, channels).
        parts: (36, channels, filters), from `WinogradConv2D.fix`.
        edges: From there too.
    """
    count, height, width = tf.unstack(tf.shape(images)[:3])
    channels, filters = parts.shape[1:]
    down, across = (height + 3) // 4, (width + 3) // 4
    images = tf.pad(images, ONE_PIXEL, "SYMMETRIC" if edges else "CONSTANT")
    padding = [[0, 0], [0, 4 * down - height + 2], [0, 4 * across - width + 2], [0, 0]]
    blocks = tf.reshape(tf.pad(images, padding), (count, down + 1, 4, across + 1, 4, channels))
    # Rows and columns of a block first. A tile has those of a block and two of the next.
    planes = tf.transpose(blocks, (2, 4, 0, 1, 3, 5))
    planes = tf.concat([planes[:, :, :, :-1], planes[:2, :, :, 1:]], 0)
    tiles = tf.concat([planes[:, :, :, :, :-1], planes[:, :2, :, :, 1:]], 1)
    turned = tf.matmul(_IMAGES, tf.reshape(tiles, (36, -1)))
    found = tf.matmul(tf.reshape(turned, (36, -1, channels)), parts)
    found = tf.matmul(_RESULTS, tf.reshape(found, (36, -1)))
    return _joined(tf.reshape(found, (4, 4, count, down, across, filters)))[:, :height, :width]


def _returned(gradient: Tensor, parts: Tensor, edges: bool) -> Tensor:
    """The gradient of the images, from that of the result: every step of above in reverse."""
    count, height, width = tf.unstack(tf.shape(gradient)[:3])
    channels, filters = parts.shape[1:]
    down, across = (height + 3) // 4, (width + 3) // 4
    padding = [[0, 0], [0, 4 * down - height], [0, 4 * across - width], [0, 0]]
    blocks = tf.reshape(tf.pad(gradient, padding), (count, down, 4, across, 4, filters))
    planes = tf.reshape(tf.transpose(blocks, (2, 4, 0, 1, 3, 5)), (16, -1))
    turned = tf.matmul(_RESULTS, planes, transpose_a=True)
    found = tf.matmul(tf.reshape(turned, (36, -1, filters)), parts, transpose_b=True)
    found = tf.matmul(_IMAGES, tf.reshape(found, (36, -1)), transpose_a=True)
    tiles = tf.reshape(found, (6, 6, count, down, across, channels))
    planes = _overlapped(_overlapped(tiles, tile=0, block=3), tile=1, block=4)
    images = _joined(planes)[:, : height + 2, : width + 2]
    if edges:
        return tf.raw_ops.MirrorPadGrad(input=images, paddings=ONE_PIXEL, mode="SYMMETRIC")
    return images[:, 1:-1, 1:-1]


_compiled = tf.function(_convolved, jit_compile=True)
_compiled_back = tf.function(_returned, jit_compile=True)


def _joined(planes: Tensor) -> Tensor:
    """Images from (4, 4, count, blocks down, blocks across, channels)."""
    shape = tf.shape(planes)
    size = (shape[2], 4 * shape[3], 4 * shape[4], planes.shape[-1])
    return tf.reshape(tf.transpose(planes, (2, 3, 0, 4, 1, 5)), size)


def _overlapped(tiles: Tensor, *, tile: int, block: int) -> Tensor:
    """The sums where tiles overlap: their last two rows or columns are the next block's first."""
    own, over = tf.split(tiles, [4, 2], axis=tile)
    after = [[0, int(axis == block)] for axis in range(6)]
    before = [[int(axis == block), 2 * int(axis == tile)] for axis in range(6)]
    return tf.pad(own, after) + tf.pad(over, before)
