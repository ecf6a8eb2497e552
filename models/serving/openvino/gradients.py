"""Converts TensorFlow's gradient operations for OpenVINO, which imports forward operations only.

An `explain` endpoint contains the layers and a handful of gradient operations, from the logit back
to the maps. With these converters OpenVINO runs the whole endpoint, in the same precision and as
quickly as it classifies. What is not converted here (overlapping pools, rarer activations) is
refused, and TensorFlow explains.
"""

from functools import partial
from typing import Any

import numpy as np

from models.serving.openvino.frontend import Converter, Node
from models.serving.openvino.spatial_sums import SPATIAL_AXES, SpatialSums

_RELU6 = 6.0
# Padding added at the upper end in the forward pass is cut off there again.
_PADDINGS = {"SAME": "same_lower", "VALID": "valid"}


class UnknownGradientError(ValueError):
    """There is no converter for this gradient. The message says which."""


def gradient_converters(op: Any) -> dict[str, Converter]:
    """Converters of gradient operations, by operation name.

    Args:
        op: `openvino.opset13`.

    Returns:
        Converters for one graph only: they share sums of its tensors.
    """
    sums = SpatialSums(op)
    zero = op.constant(np.float32(0))

    def relu_grad(node: Node) -> list[Any]:
        """The upstream gradient where the input was positive."""
        return masked(node, op.greater(node.get_input(1), zero))

    def relu6_grad(node: Node) -> list[Any]:
        features, six = node.get_input(1), op.constant(np.float32(_RELU6))
        inside = op.logical_and(op.greater(features, zero), op.less(features, six))
        return masked(node, inside)

    def masked(node: Node, mask: Any) -> list[Any]:
        upstream = node.get_input(0)
        gradient = op.select(mask, upstream, zero).output(0)
        if (value := sums.uniform_value(upstream)) is not None:
            count = op.reduce_sum(op.convert(mask, "f32"), np.array(SPATIAL_AXES), keep_dims=True)
            sums.register(gradient, lambda: op.multiply(value, count).output(0))
        return [gradient]

    def max_pool_grad(node: Node) -> list[Any]:
        """The upstream gradient goes to the maximum of each window; equal maxima share it.

        TensorFlow gives it to the first of them. The sum over a window is the same.
        """
        maps, upstream = node.get_input(0), node.get_input(2)
        down, across = _window(node)
        height, width, channels = _sides(maps)
        if height % down or width % across:
            raise UnknownGradientError("a pool that omits the edge")
        rows, columns = height // down, width // across
        inside = op.constant(np.array([2, 4]))
        windows = _reshaped(op, maps, (rows, down, columns, across, channels))
        largest = op.equal(windows, op.reduce_max(windows, inside, keep_dims=True))
        share = op.convert(largest, "f32")
        spread = _reshaped(op, upstream, (rows, 1, columns, 1, channels))
        each = op.divide(spread, op.reduce_sum(share, inside, keep_dims=True))
        gradient = _reshaped(op, op.multiply(share, each), (height, width, channels)).output(0)
        sums.register(gradient, lambda: sums.total(upstream))
        return [gradient]

    def broadcast_gradient_args(node: Node) -> list[Any]:
        """The broadcast axes of both operands, computed from static shapes."""
        a, b = (_shape(node.get_input(index)) for index in (0, 1))
        rank = max(len(a), len(b))
        a, b = ((1,) * (rank - len(shape)) + shape for shape in (a, b))
        broadcast = [_broadcast_axes(a, b), _broadcast_axes(b, a)]
        return [op.constant(np.array(axes, np.int32)).output(0) for axes in broadcast]

    return {
        "ReluGrad": relu_grad,
        "Relu6Grad": relu6_grad,
        "MaxPoolGrad": max_pool_grad,
        "Conv2DBackpropInput": partial(_convolution_grad, op, sums),
        "BroadcastGradientArgs": broadcast_gradient_args,
        "Mean": sums.mean,
    }


def _convolution_grad(op: Any, sums: SpatialSums, node: Node) -> list[Any]:
    """The gradient of a convolution with respect to its input.

    For a 1 x 1 convolution this is a product with the transposed kernel: OpenVINO's own operation,
    used for the others, computes in float32 and takes as long as half of SqueezeNet.
    """
    sizes, kernel, upstream = (node.get_input(index) for index in range(3))
    strides, dilations = _spatial_pair(node, "strides"), _spatial_pair(node, "dilations")
    padding = str(node.get_attribute("padding"))
    rows, columns, inputs, outputs = kernel.get_shape()
    grouped = _shape(sizes)[-1] != inputs
    if dilations != (1, 1) or padding not in _PADDINGS or grouped:
        raise UnknownGradientError("a convolution with dilation, groups or explicit padding")
    if (rows, columns, *strides) == (1, 1, 1, 1):
        weights = op.reshape(kernel, np.array((inputs, outputs)), special_zero=False)

        def multiplied(gradient: Any) -> Any:
            return op.matmul(gradient, weights, transpose_a=False, transpose_b=True).output(0)

        product = multiplied(upstream)
        sums.register(product, lambda: multiplied(sums.total(upstream)))
        return [product]
    channels_first = op.convolution_backprop_data(
        op.transpose(upstream, np.array((0, 3, 1, 2))),
        op.transpose(kernel, np.array((3, 2, 0, 1))),
        list(strides),
        output_shape=op.gather(sizes, np.array((1, 2)), np.int64(0)),
        auto_pad=_PADDINGS[padding],
    )
    return [op.transpose(channels_first, np.array((0, 2, 3, 1))).output(0)]


def _spatial_pair(node: Node, attribute: str) -> tuple[int, int]:
    """The height and width entries of an attribute of four numbers."""
    _, down, across, _ = (int(number) for number in node.get_attribute(attribute, [1, 1, 1, 1]))
    if str(node.get_attribute("data_format", "NHWC")) != "NHWC":
        raise UnknownGradientError("a layout with channels first")
    return down, across


def _window(node: Node) -> tuple[int, int]:
    """Height and width of a pool's windows, which must not overlap."""
    sides, strides = (tuple(map(int, node.get_attribute(name))) for name in ("ksize", "strides"))
    if len(sides) != 4 or sides != strides or (sides[0], sides[3]) != (1, 1):
        raise UnknownGradientError("a pool whose windows overlap")
    return sides[1], sides[2]


def _sides(maps: Any) -> tuple[int, int, int]:
    shape = maps.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4 or any(side.is_dynamic for side in list(shape)[1:]):
        raise UnknownGradientError("a pool of images of any size")
    height, width, channels = (side.get_length() for side in list(shape)[1:])
    return height, width, channels


def _reshaped(op: Any, tensor: Any, shape: tuple[int, ...]) -> Any:
    """To (n, *shape)."""
    return op.reshape(tensor, op.constant(np.array((-1, *shape))), special_zero=False)


def _shape(tensor: Any) -> tuple[int | None, ...]:
    """The value of a shape tensor, as far as it is known: None for the number of images."""
    node = tensor.get_node()
    if node.get_type_name() == "Constant":
        return tuple(int(side) for side in node.get_data())
    if node.get_type_name() == "ShapeOf":
        shape = node.input_value(0).get_partial_shape()
        if shape.rank.is_static:
            return tuple(None if side.is_dynamic else side.get_length() for side in shape)
    raise UnknownGradientError("a sum of tensors of any shape")


def _broadcast_axes(shape: tuple[int | None, ...], other: tuple[int | None, ...]) -> list[int]:
    """The axes of size 1 in `shape` that may be larger in `other`.

    Two unknown sizes are both the number of images and so equal.
    """
    return [
        axis
        for axis, (side, wider) in enumerate(zip(shape, other, strict=True))
        if side == 1 and wider != 1
    ]
