"""Gradients in terms that OpenVINO knows: it reads a network's layers, but not their ways back.

An `explain` endpoint holds the tape of its function: beside the layers a handful of gradients, from
the logit back to the maps. Some of them OpenVINO cannot read by itself. With these it runs the
whole endpoint, in the precision and as quickly as it classifies. What is not converted here (pools
that overlap, rarer activations) it refuses, and TensorFlow explains.
"""

from functools import partial
from typing import Any

import numpy as np

from models.serving.openvino.frontend import Convert, Node
from models.serving.openvino.spatial_sums import PLACES, PlaceSums

_RELU6 = 6.0
# What forward was added at the upper end is cut off there again.
_PADDINGS = {"SAME": "same_lower", "VALID": "valid"}


class UnknownGradientError(ValueError):
    """This gradient cannot be said in OpenVINO's operations. The message says which."""


def gradients(operations: Any) -> dict[str, Convert]:
    """What to do with each operation of TensorFlow's, by its name.

    Args:
        operations: `openvino.opset13`, imported by who runs it.

    Returns:
        Conversions for one graph: they note what they did to it.
    """
    op, sums = operations, PlaceSums(operations)
    zero = op.constant(np.float32(0))

    def relu_grad(node: Node) -> list[Any]:
        """What comes back, where something went through."""
        return through(node, op.greater(node.get_input(1), zero))

    def relu6_grad(node: Node) -> list[Any]:
        features, six = node.get_input(1), op.constant(np.float32(_RELU6))
        inside = op.logical_and(op.greater(features, zero), op.less(features, six))
        return through(node, inside)

    def through(node: Node, open_places: Any) -> list[Any]:
        back = node.get_input(0)
        sent = op.select(open_places, back, zero).output(0)
        if (each := sums.everywhere(back)) is not None:
            count = op.reduce_sum(op.convert(open_places, "f32"), np.array(PLACES), keep_dims=True)
            sums.know(sent, lambda: op.multiply(each, count).output(0))
        return [sent]

    def max_pool_grad(node: Node) -> list[Any]:
        """To the largest of each window what its place in the output gets; equals share it.

        TensorFlow gives it all to the first of equals. The sum over a window is the same.
        """
        maps, back = node.get_input(0), node.get_input(2)
        down, across = _window(node)
        height, width, channels = _sides(maps)
        if height % down or width % across:
            raise UnknownGradientError("a pool that leaves out the edge")
        rows, columns = height // down, width // across
        inside = op.constant(np.array([2, 4]))
        windows = _reshaped(op, maps, (rows, down, columns, across, channels))
        largest = op.equal(windows, op.reduce_max(windows, inside, keep_dims=True))
        share = op.convert(largest, "f32")
        coming = _reshaped(op, back, (rows, 1, columns, 1, channels))
        each = op.divide(coming, op.reduce_sum(share, inside, keep_dims=True))
        sent = _reshaped(op, op.multiply(share, each), (height, width, channels)).output(0)
        sums.know(sent, lambda: sums.of(back))
        return [sent]

    def broadcast_gradient_args(node: Node) -> list[Any]:
        """The axes that were stretched, of one operand and of the other: known beforehand."""
        one, other = (_shape(node.get_input(at)) for at in (0, 1))
        rank = max(len(one), len(other))
        one, other = ((1,) * (rank - len(shape)) + shape for shape in (one, other))
        stretched = [_stretched(one, other), _stretched(other, one)]
        return [op.constant(np.array(axes, np.int32)).output(0) for axes in stretched]

    return {
        "ReluGrad": relu_grad,
        "Relu6Grad": relu6_grad,
        "MaxPoolGrad": max_pool_grad,
        "Conv2DBackpropInput": partial(_convolution_grad, op, sums),
        "BroadcastGradientArgs": broadcast_gradient_args,
        "Mean": sums.mean,
    }


def _convolution_grad(op: Any, sums: PlaceSums, node: Node) -> list[Any]:
    """Of a convolution that looks at single places: a product with its kernel, turned.

    OpenVINO's own kernel for it, which takes the others, computes in float32 and as long as
    half of SqueezeNet.
    """
    sizes, kernel, back = (node.get_input(at) for at in range(3))
    strides, dilations = _places(node, "strides"), _places(node, "dilations")
    padding = str(node.get_attribute("padding"))
    down, across, given, made = kernel.get_shape()
    grouped = _shape(sizes)[-1] != given
    if dilations != (1, 1) or padding not in _PADDINGS or grouped:
        raise UnknownGradientError("a convolution that is dilated, grouped or padded by hand")
    if (down, across, *strides) == (1, 1, 1, 1):
        weights = op.reshape(kernel, np.array((given, made)), special_zero=False)

        def sent(coming: Any) -> Any:
            return op.matmul(coming, weights, transpose_a=False, transpose_b=True).output(0)

        whole = sent(back)
        sums.know(whole, lambda: sent(sums.of(back)))
        return [whole]
    moved = op.convolution_backprop_data(
        op.transpose(back, np.array((0, 3, 1, 2))),
        op.transpose(kernel, np.array((3, 2, 0, 1))),
        list(strides),
        output_shape=op.gather(sizes, np.array((1, 2)), np.int64(0)),
        auto_pad=_PADDINGS[padding],
    )
    return [op.transpose(moved, np.array((0, 2, 3, 1))).output(0)]


def _places(node: Node, attribute: str) -> tuple[int, int]:
    """What an attribute of four numbers says of height and width."""
    _, down, across, _ = (int(number) for number in node.get_attribute(attribute, [1, 1, 1, 1]))
    if str(node.get_attribute("data_format", "NHWC")) != "NHWC":
        raise UnknownGradientError("channels first")
    return down, across


def _window(node: Node) -> tuple[int, int]:
    """Height and width of a pool's windows, which do not overlap."""
    sides, strides = (tuple(map(int, node.get_attribute(name))) for name in ("ksize", "strides"))
    if len(sides) != 4 or sides != strides or (sides[0], sides[3]) != (1, 1):
        raise UnknownGradientError("a pool whose windows overlap")
    return sides[1], sides[2]


def _sides(maps: Any) -> tuple[int, int, int]:
    shape = maps.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4 or any(side.is_dynamic for side in list(shape)[1:]):
        raise UnknownGradientError("a pool of pictures of any size")
    height, width, channels = (side.get_length() for side in list(shape)[1:])
    return height, width, channels


def _reshaped(op: Any, tensor: Any, shape: tuple[int, ...]) -> Any:
    """To (n, *shape)."""
    return op.reshape(tensor, op.constant(np.array((-1, *shape))), special_zero=False)


def _shape(tensor: Any) -> tuple[int | None, ...]:
    """A shape that is a tensor, as far as it is known: None for the number of pictures."""
    node = tensor.get_node()
    if node.get_type_name() == "Constant":
        return tuple(int(side) for side in node.get_data())
    if node.get_type_name() == "ShapeOf":
        shape = node.input_value(0).get_partial_shape()
        if shape.rank.is_static:
            return tuple(None if side.is_dynamic else side.get_length() for side in shape)
    raise UnknownGradientError("a sum of tensors of any shape")


def _stretched(one: tuple[int | None, ...], other: tuple[int | None, ...]) -> list[int]:
    """The axes on which the first has a single place and the other may have more.

    Of two numbers that are both not known before there are pictures, they are those of pictures.
    """
    return [
        axis
        for axis, (side, wider) in enumerate(zip(one, other, strict=True))
        if side == 1 and wider != 1
    ]
