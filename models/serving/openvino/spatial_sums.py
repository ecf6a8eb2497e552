"""Spatial sums of gradients, computed without the gradients themselves where possible.

Grad-CAM needs only the mean of each map's gradient. The gradients of a pool, a 1 x 1 convolution or
a dense layer on flattened maps can be summed before they are propagated: VGG16's backward pass
through its first dense layer then reads 512 x 4096 weights instead of 25088 x 4096, which took a
quarter of the whole time for one image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from models.serving.openvino.frontend import Node

Tensor = Any
SPATIAL_AXES = (1, 2)
"""Of (n, h, w, channels)."""
_RANK = 4
_TRANSPOSED = {"transpose_a": False, "transpose_b": True}


class SpatialSums:
    """Sums of one graph's tensors, (n, h, w, channels), over h and w.

    Args:
        operations: `openvino.opset13`.
    """

    def __init__(self, operations: Any) -> None:
        self._op = operations
        self._totals: dict[str, Callable[[], Tensor]] = {}

    def register(self, tensor: Tensor, total: Callable[[], Tensor]) -> None:
        """Register how to compute the sum, (n, 1, 1, channels), without the tensor."""
        self._totals[tensor.get_node().get_name()] = total

    def total(self, tensor: Tensor) -> Tensor:
        """The sum, (n, 1, 1, channels)."""
        shortcut = self._shortcut(tensor.get_node())
        if shortcut is not None:
            return shortcut
        return self._op.reduce_sum(tensor, np.array(SPATIAL_AXES), keep_dims=True).output(0)

    def mean(self, node: Node) -> list[Tensor]:
        """The converter of TensorFlow's `Mean`."""
        tensor, axes = node.get_input(0), node.get_input(1)
        keep_dims, sides = bool(node.get_attribute("keep_dims", False)), _sides(tensor)
        if keep_dims and sides is not None and _are_spatial(axes):
            total = self._shortcut(tensor.get_node())
            if total is not None:
                count = self._op.constant(np.float32(sides[0] * sides[1]))
                return [self._op.divide(total, count).output(0)]
        return [self._op.reduce_mean(tensor, axes, keep_dims=keep_dims).output(0)]

    def _shortcut(self, node: Any) -> Tensor | None:
        """The sum of a node's output without computing the output; None if there is no way."""
        registered = self._totals.get(node.get_name())
        return self._flattened_total(node) if registered is None else registered()

    def uniform_value(self, tensor: Tensor) -> Tensor | None:
        """The value of a spatially constant tensor, (n, 1, 1, channels); None if it varies.

        The gradient of a global average is constant.
        """
        node = tensor.get_node()
        if node.get_type_name() == "Divide":
            inner = self.uniform_value(node.input_value(0))
            divisor = node.input_value(1)
            if inner is None or divisor.get_partial_shape().rank != 0:
                return None
            return self._op.divide(inner, divisor).output(0)
        if node.get_type_name() != "Broadcast":
            return None
        source = node.input_value(0)
        shape = source.get_partial_shape()
        uniform = shape.rank == _RANK and all(shape[axis] == 1 for axis in SPATIAL_AXES)
        return source if uniform else None

    def _flattened_total(self, node: Any) -> Tensor | None:
        """The sum of a product with weights, (n, h * w * channels), that is reshaped to maps."""
        if node.get_type_name() != "Reshape" or (sides := _sides(node.output(0))) is None:
            return None
        product, (height, width, channels) = node.input_value(0).get_node(), sides
        if product.get_type_name() != "MatMul" or product.get_attributes() != _TRANSPOSED:
            return None
        # Weights are still a function's parameter here. Unlike images, their shape is known.
        weights = product.input_value(1)
        shape = weights.get_partial_shape()
        if shape.is_dynamic or len(shape) != 2 or shape[0] != height * width * channels:
            return None
        by_position = self._op.reshape(
            weights,
            np.array((height * width, channels, shape[1].get_length())),
            special_zero=False,
        )
        summed = self._op.reduce_sum(by_position, np.array([0]), keep_dims=False)
        total = self._op.matmul(product.input_value(0), summed, **_TRANSPOSED)
        return self._op.reshape(total, np.array((-1, 1, 1, channels)), special_zero=False).output(0)


def _sides(tensor: Tensor) -> tuple[int, int, int] | None:
    """Height, width and channels; None if they are unknown or the tensor is not maps."""
    shape = tensor.get_partial_shape()
    if shape.rank != _RANK or any(side.is_dynamic for side in list(shape)[1:]):
        return None
    height, width, channels = (side.get_length() for side in list(shape)[1:])
    return height, width, channels


def _are_spatial(axes: Tensor) -> bool:
    node = axes.get_node()
    return (
        node.get_type_name() == "Constant"
        and tuple(sorted(node.get_data().ravel())) == SPATIAL_AXES
    )
