"""int8 without a dataset: makes the graph of a published network int8 by ranges measured before.

To compute in int8, OpenVINO must know between which values each tensor lies. For published
weights, we have measured that on photos; the results are in `models/weights/ranges`. Each belongs
to a tensor by its digest (`models.serving.openvino.tensor_digests`), so other weights never get it,
and the frozen base of a trained version does. Layers that are not listed there, such as the head of
a trained version, remain as they are.

The ranges of weights are not in the files: they follow from the weights.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.serving.openvino.image_bytes import read_bytes
from models.serving.openvino.tensor_digests import MOVES, digests, edge

Model = Any
Node = Any
Tensor = Any
Weights = npt.NDArray[np.float32]

RANGES = Path(__file__).parents[2] / "weights" / "ranges"

EIGHT_BITS, SEVEN_BITS = 127, 64
"""The largest weight of a channel, in steps.

On processors without VNNI or AMX, the sum of two products has 16 bits. Two large weights of eight
bits and two large values exceed them; weights of seven bits never do.
"""

_WIDE_SUMS = {"avx512_vnni", "avx_vnni", "amx_int8"}
_WEIGHT_LEVELS = 255
# A channel of nearly nothing is no reason for steps that are smaller still.
_LEAST_SHARE = 0.01
# The axes of a layer's weights that lie within one of its output channels.
_WITHIN_CHANNEL = {"Convolution": (1, 2, 3), "GroupConvolution": (2, 3, 4)}


@dataclass(frozen=True, slots=True)
class Activation:
    """The range of a tensor.

    Attributes:
        low: The smallest value that is represented.
        high: The largest one.
        levels: How many values are represented.
        edges: The inputs that read the tensor in int8, see `tensor_digests.edge`.
    """

    low: float
    high: float
    levels: int
    edges: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranges:
    """What is known of the tensors of one or more networks.

    Attributes:
        activations: The ranges of tensors between layers.
        layers: The convolutions and matrix products whose weights become int8, by digest: the bits
            of their weights on processors with narrow sums, as `EIGHT_BITS` or `SEVEN_BITS`.
    """

    activations: tuple[Activation, ...]
    layers: Mapping[str, int]

    @classmethod
    def joined(cls, several: Iterable["Ranges"]) -> "Ranges":
        """All of them in one."""
        parts = tuple(several)
        return cls(
            tuple(activation for part in parts for activation in part.activations),
            {layer: steps for part in parts for layer, steps in part.layers.items()},
        )

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Ranges":
        """The ranges in the content of a file."""
        return cls(
            tuple(
                Activation(row["low"], row["high"], row["levels"], tuple(row["edges"]))
                for row in content["activations"]
            ),
            content["layers"],
        )

    def content(self) -> dict[str, Any]:
        """The opposite of `parse`."""
        rows = [
            {"low": row.low, "high": row.high, "levels": row.levels, "edges": list(row.edges)}
            for row in self.activations
        ]
        return {"activations": rows, "layers": dict(self.layers)}


@cache
def published_ranges() -> Ranges:
    """The ranges of all networks that we have measured."""
    files = sorted(RANGES.glob("*.json"))
    return Ranges.joined(Ranges.parse(json.loads(file.read_text("utf-8"))) for file in files)


@cache
def has_wide_sums() -> bool:
    """Whether this processor adds products of eight bits without overflow."""
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not _WIDE_SUMS.isdisjoint(flags)


def quantize(openvino: Any, model: Model, ranges: Ranges) -> int:
    """Mark what is computed in int8, so that OpenVINO does so when it compiles the graph.

    Args:
        openvino: The module.
        model: As read from a SavedModel; it is changed.
        ranges: Only those of tensors in the graph are used.

    Returns:
        The number of layers in int8; 0 if nothing was changed.
    """
    op, known = openvino.opset13, digests(model)
    layers = [
        (node, weights)
        for node in model.get_ordered_ops()
        if known[node.get_name()] in ranges.layers
        if (weights := _weights(node)) is not None
    ]
    if not layers:
        return 0
    for node, weights in layers:
        steps = EIGHT_BITS if has_wide_sums() else ranges.layers[known[node.get_name()]]
        mark = partial(_marked_weights, op, node, steps)
        if not read_bytes(op, node, weights, mark):
            node.input(1).replace_source_output(mark(weights)[0])
    _mark_activations(op, model, known, ranges)
    return len(layers)


def _mark_activations(op: Any, model: Model, known: Mapping[str, str], ranges: Ranges) -> None:
    by_edge = {name: activation for activation in ranges.activations for name in activation.edges}
    marked: dict[tuple[str, int, Activation], Tensor] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in MOVES or node.get_name() not in known:
            continue  # the former have the digest of their input
        for port, source in enumerate(node.input_values()):
            activation = by_edge.get(edge(known[node.get_name()], port))
            if activation is None:
                continue
            key = (source.get_node().get_name(), source.get_index(), activation)
            if key not in marked:
                marked[key] = _marked(
                    op, source, activation.low, activation.high, activation.levels
                )
            node.input(port).replace_source_output(marked[key])


def _marked(op: Any, tensor: Tensor, low: Any, high: Any, levels: int) -> Tensor:
    bounds = [op.constant(np.asarray(bound, np.float32)) for bound in (low, high)]
    return op.fake_quantize(tensor, *bounds, *bounds, levels).output(0)


def _marked_weights(op: Any, node: Node, steps: int, weights: Weights) -> tuple[Tensor, Weights]:
    """The weights of a layer in int8, and their values as int8 represents them."""
    largest = np.abs(weights).max(axis=_axes(node), keepdims=True)
    largest = np.maximum(largest, _LEAST_SHARE * largest.max())
    step = largest / steps
    high = step * (_WEIGHT_LEVELS // 2)
    marked = _marked(op, op.constant(weights), -high, high, _WEIGHT_LEVELS)
    return marked, np.round(weights / step) * step


def _axes(node: Node) -> tuple[int, ...]:
    if node.get_type_name() in _WITHIN_CHANNEL:
        return _WITHIN_CHANNEL[node.get_type_name()]
    return (1,) if node.get_attributes()["transpose_b"] else (0,)


def _weights(node: Node) -> Weights | None:
    """The weights of a layer as it reads them; None if they are no plain numbers."""
    values = _constant(node.input_value(1))
    usable = values is not None and values.dtype == np.float32 and bool(np.abs(values).max() > 0)
    return values if usable else None


def _constant(tensor: Tensor) -> npt.NDArray[Any] | None:
    """The value of a tensor, if it is a constant, rearranged or not."""
    node = tensor.get_node()
    if node.get_type_name() == "Constant":
        return np.array(node.data)
    if node.get_type_name() not in MOVES:
        return None
    values = _constant(node.input_value(0))
    if values is None or tensor.get_partial_shape().is_dynamic:
        return None
    if node.get_type_name() != "Transpose":
        return values.reshape(tuple(tensor.get_shape()))
    order = _constant(node.input_value(1))
    return None if order is None else np.transpose(values, order.tolist())
