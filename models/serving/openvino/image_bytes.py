"""Lets the first convolution of an int8 graph read the bytes of the image themselves.

A byte is an 8-bit integer already, but the preprocessing turns it into a float: the colors are
reversed and their means subtracted. A convolution without padding can do both by itself: its
weights are reversed instead, and what they make of the means is subtracted from its result. That
is exact, and saves four passes over the image. With padding it would not be: zeros are added after
the means were subtracted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Node = Any
Tensor = Any
Weights = npt.NDArray[np.float32]

_CHANNELS = 3
_AXIS = 1


@dataclass(frozen=True, slots=True)
class _Preprocessing:
    """From bytes (n, 3, h, w) as floats to the input of a convolution.

    Attributes:
        source: The bytes as floats.
        order: Which channel of the source each channel of the input is.
        means: What is subtracted from each channel of the input.
    """

    source: Tensor
    order: npt.NDArray[np.int64]
    means: Weights


def read_bytes(
    op: Any, node: Node, weights: Weights, mark: Callable[[Weights], tuple[Tensor, Weights]]
) -> bool:
    """Make a convolution read the image's bytes, if it reads only what was subtracted from them.

    Args:
        op: `openvino.opset13`.
        node: The convolution, whose input has no range yet.
        weights: (channels, 3, height, width).
        mark: Makes the tensor of such weights in int8, and their values as int8 represents them.

    Returns:
        Whether it does.
    """
    found = _preprocessing(node)
    if found is None:
        return False
    turned = np.zeros_like(weights)
    turned[:, found.order] = weights
    means = np.zeros_like(found.means)
    means[found.order] = found.means
    tensor, values = mark(turned)
    attributes = node.get_attributes()
    lowest, highest = op.constant(np.float32(0)), op.constant(np.float32(255))
    # Changes nothing; only then OpenVINO takes the bytes as they are.
    taken = op.fake_quantize(found.source, lowest, highest, lowest, highest, 256)
    convolution = op.convolution(
        taken,
        tensor,
        attributes["strides"],
        attributes["pads_begin"],
        attributes["pads_end"],
        attributes["dilations"],
    )
    shift = np.einsum("ochw,c->o", values, means)[np.newaxis, :, np.newaxis, np.newaxis]
    result = op.subtract(convolution, op.constant(shift.astype(np.float32))).output(0)
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(result)
    return True


def _preprocessing(node: Node) -> _Preprocessing | None:
    """The preprocessing before a convolution; None if there is another one, or padding."""
    if node.get_type_name() != "Convolution" or any(_pads(node)):
        return None
    subtract = node.input_value(0).get_node()
    if subtract.get_type_name() != "Subtract":
        return None
    means, order = _constant(subtract, 1), np.arange(_CHANNELS)
    if means is None or means.size != _CHANNELS:
        return None
    source = subtract.input_value(0)
    if source.get_node().get_type_name() == "Gather":
        gather = source.get_node()
        found, axis = _constant(gather, 1), _constant(gather, 2)
        if found is None or axis is None or axis.item() != _AXIS or len(found) != _CHANNELS:
            return None
        order, source = found, gather.input_value(0)
    if not _is_image(source):
        return None
    return _Preprocessing(source, order, means.ravel().astype(np.float32))


def _pads(node: Node) -> list[int]:
    attributes = node.get_attributes()
    return [*attributes["pads_begin"], *attributes["pads_end"]]


def _is_image(tensor: Tensor) -> bool:
    """Whether it is (n, 3, h, w), bytes of an input as floats."""
    node = tensor.get_node()
    shape = tensor.get_partial_shape()
    if node.get_type_name() != "Convert" or shape.rank != 4 or shape[_AXIS] != _CHANNELS:
        return False
    given = node.input_value(0)
    return bool(given.get_element_type().get_type_name() == "u8")


def _constant(node: Node, port: int) -> npt.NDArray[Any] | None:
    source = node.input_value(port).get_node()
    return np.array(source.data) if source.get_type_name() == "Constant" else None
