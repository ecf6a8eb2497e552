"""From a graph that NNCF has quantized to the ranges that it found.

See `models.serving.openvino.ranges`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from models.serving.openvino.ranges import SEVEN_BITS, Activation, Ranges
from models.serving.openvino.tensor_digests import MOVES, digests, edge

Model = Any
Node = Any

_PRODUCTS = {"Convolution", "GroupConvolution", "MatMul"}
_QUANTIZER = "FakeQuantize"


class OriginalGraph:
    """A graph before it is quantized, to which the nodes of the quantized one are assigned.

    Args:
        model: Its nodes get names of their own, which NNCF keeps.
    """

    def __init__(self, model: Model) -> None:
        known = digests(model)
        self._first = {known[name] for name in _first_products(model)}
        self._digests: dict[str, str] = {}
        for number, node in enumerate(model.get_ordered_ops()):
            if node.get_type_name() not in {"Parameter", "Result"}:
                node.set_friendly_name(f"node{number}")
            self._digests[node.get_friendly_name()] = known[node.get_name()]

    def ranges(self, quantized: Model, *, bits: int = SEVEN_BITS) -> Ranges:
        """The ranges in a graph that NNCF made of this one, without compressing its weights.

        Args:
            quantized: What `nncf.quantize` returned.
            bits: Of the weights on processors with narrow sums, except for the first layers: the
                values of images are large more often than those between layers.
        """
        activations: list[Activation] = []
        layers: dict[str, int] = {}
        for node in quantized.get_ordered_ops():
            if node.get_type_name() != _QUANTIZER:
                continue
            readers = list(_readers(node))
            if _is_constant(node.input_value(0).get_node()):
                names = [self._digests[reader.get_friendly_name()] for reader, _ in readers]
                layers |= {name: SEVEN_BITS if name in self._first else bits for name in names}
                continue
            edges = {
                edge(self._digests[reader.get_friendly_name()], port) for reader, port in readers
            }
            low, high = (float(_value(node, port)) for port in (1, 2))
            levels = int(node.get_attributes()["levels"])
            activations.append(Activation(low, high, levels, tuple(sorted(edges))))
        return Ranges(tuple(activations), layers)


def _first_products(model: Model) -> set[str]:
    """The names of the products that depend on no other."""
    first: set[str] = set()
    behind: set[str] = set()
    for node in model.get_ordered_ops():
        inputs = {source.get_node().get_name() for source in node.input_values()}
        if inputs & (first | behind):
            behind.add(node.get_name())
        elif node.get_type_name() in _PRODUCTS:
            first.add(node.get_name())
    return first


def _readers(node: Node) -> Iterator[tuple[Node, int]]:
    """The inputs that read a node's output, also where it is rearranged on the way."""
    for target in node.output(0).get_target_inputs():
        if target.get_node().get_type_name() in MOVES:
            yield from _readers(target.get_node())
        else:
            yield target.get_node(), target.get_index()


def _is_constant(node: Node) -> bool:
    while node.get_type_name() in MOVES:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _value(node: Node, port: int) -> float:
    values = np.asarray(node.input_value(port).get_node().data)
    if values.size != 1:
        raise ValueError(f"{node.get_friendly_name()} has a range for each channel")
    return float(values.ravel()[0])
