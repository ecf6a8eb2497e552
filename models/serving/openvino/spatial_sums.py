"""Sums of gradients over all places, without the gradients where they are not needed one by one.

Grad-CAM asks of each map only what its gradient is on average. What a pool, a convolution of single
places or a flattened product sends back can be summed before it is sent: VGG16's way back through
its first dense layer then reads 512 x 4096 weights in place of 25088 x 4096, which for one picture
took a quarter of the whole.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from models.serving.openvino.frontend import Node

Tensor = Any
PLACES = (1, 2)
"""Of (n, h, w, channels)."""
_RANK = 4
_TURNED = {"transpose_a": False, "transpose_b": True}


class PlaceSums:
    """What tensors of one graph, (n, h, w, channels), sum up to over h and w.

    Args:
        operations: `openvino.opset13`, imported by who runs it.
    """

    def __init__(self, operations: Any) -> None:
        self._op = operations
        self._known: dict[str, Callable[[], Tensor]] = {}

    def know(self, tensor: Tensor, total: Callable[[], Tensor]) -> None:
        """Note how the sum of a tensor is found without it: (n, 1, 1, channels)."""
        self._known[tensor.get_node().get_name()] = total

    def of(self, tensor: Tensor) -> Tensor:
        """The sum, (n, 1, 1, channels)."""
        shorter = self._shorter(tensor.get_node())
        if shorter is not None:
            return shorter
        return self._op.reduce_sum(tensor, np.array(PLACES), keep_dims=True).output(0)

    def mean(self, node: Node) -> list[Tensor]:
        """The conversion of TensorFlow's `Mean`."""
        tensor, axes = node.get_input(0), node.get_input(1)
        kept, sides = bool(node.get_attribute("keep_dims", False)), _sides(tensor)
        if kept and sides is not None and _are_places(axes):
            total = self._shorter(tensor.get_node())
            if total is not None:
                places = self._op.constant(np.float32(sides[0] * sides[1]))
                return [self._op.divide(total, places).output(0)]
        return [self._op.reduce_mean(tensor, axes, keep_dims=kept).output(0)]

    def _shorter(self, node: Any) -> Tensor | None:
        """The sum of what a node makes, found without making it; None if there is no such way."""
        known = self._known.get(node.get_name())
        return self._of_flattened(node) if known is None else known()

    def everywhere(self, tensor: Tensor) -> Tensor | None:
        """What a tensor holds at each place alike, (n, 1, 1, channels); None if places differ.

        It is so behind an average over all places, which sends the same back to each.
        """
        node = tensor.get_node()
        if node.get_type_name() == "Divide":
            inner = self.everywhere(node.input_value(0))
            by = node.input_value(1)
            if inner is None or by.get_partial_shape().rank != 0:
                return None
            return self._op.divide(inner, by).output(0)
        if node.get_type_name() != "Broadcast":
            return None
        source = node.input_value(0)
        shape = source.get_partial_shape()
        alike = shape.rank == _RANK and all(shape[at] == 1 for at in PLACES)
        return source if alike else None

    def _of_flattened(self, node: Any) -> Tensor | None:
        """Of a product with weights, (n, h * w * channels), that became maps again."""
        if node.get_type_name() != "Reshape" or (sides := _sides(node.output(0))) is None:
            return None
        product, (height, width, channels) = node.input_value(0).get_node(), sides
        if product.get_type_name() != "MatMul" or product.get_attributes() != _TURNED:
            return None
        # Weights are still a function's parameter here, but of a known shape, as no pictures are.
        weights = product.input_value(1)
        shape = weights.get_partial_shape()
        if shape.is_dynamic or len(shape) != 2 or shape[0] != height * width * channels:
            return None
        each = self._op.reshape(
            weights,
            np.array((height * width, channels, shape[1].get_length())),
            special_zero=False,
        )
        summed = self._op.reduce_sum(each, np.array([0]), keep_dims=False)
        total = self._op.matmul(product.input_value(0), summed, **_TURNED)
        return self._op.reshape(total, np.array((-1, 1, 1, channels)), special_zero=False).output(0)


def _sides(tensor: Tensor) -> tuple[int, int, int] | None:
    """Height, width and channels; None where they are not known, or it is no maps."""
    shape = tensor.get_partial_shape()
    if shape.rank != _RANK or any(side.is_dynamic for side in list(shape)[1:]):
        return None
    height, width, channels = (side.get_length() for side in list(shape)[1:])
    return height, width, channels


def _are_places(axes: Tensor) -> bool:
    node = axes.get_node()
    return node.get_type_name() == "Constant" and tuple(sorted(node.get_data().ravel())) == PLACES
