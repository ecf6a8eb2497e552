"""Where the base of a network ends and its heads begin, found in the graphs themselves.

Everything goes through some tensors of a network: the output of each of its first layers, its last
feature maps, often their average. The base ends with the last one that all endpoints of a version
have in common. Two versions have the same base if all that leads to that tensor is the same, each
operation, attribute and weight of it. A digest of that needs no record of what a version was
trained from, and is the same for a published network and for what is trained on it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.inference.manifest import Endpoint

Model = Any
Node = Any
Tensor = Any

_PRODUCTS = {"MatMul", "Convolution", "GroupConvolution"}
_WITH_BODIES = {"If", "Loop", "TensorIterator"}
_IMAGES = 4
"""The rank of a batch of images."""


@dataclass(frozen=True, slots=True)
class Division:
    """Graphs that begin with the same base, divided.

    Attributes:
        digest: Of the base, in hexadecimal.
        base: The graph from the images to the last tensor in common.
        heads: By endpoint, what follows in each graph; None if nothing does.
    """

    digest: str
    base: Model
    heads: dict[Endpoint, Model | None]


def divide(openvino: Any, graphs: Mapping[Endpoint, Model]) -> Division | None:
    """Divide graphs behind the last tensor that all of them have in common.

    Args:
        openvino: The module.
        graphs: From images, and perhaps more, to some outputs. They cannot be used afterwards,
            unless the result is None.

    Returns:
        None if they have no such tensor, if a head contains convolutions, which would be too much
        work to compute apart from the base, or if a head has more matrix products than the base.
    """
    tensors = {name: dict(_bottlenecks(graph)) for name, graph in graphs.items()}
    first, *others = tensors.values()
    common = [digest for digest in first if all(digest in other for other in others)]
    if not common:
        return None
    digest = common[-1]
    any_graph = next(iter(graphs.values()))
    base = openvino.Model([openvino.opset13.result(first[digest])], [_images(any_graph)], "base")
    within = _products(base)
    if not within or any(_is_heavy(_products(graph), within) for graph in graphs.values()):
        return None
    heads = {name: _head(openvino, graph, tensors[name][digest]) for name, graph in graphs.items()}
    return Division(digest, base, heads)


def _is_heavy(whole: list[str], base: list[str]) -> bool:
    """Whether what the whole has besides the base is too much for a head."""
    convolutions = len(whole) - whole.count("MatMul") > len(base) - base.count("MatMul")
    return convolutions or len(whole) > 2 * len(base)


def _head(openvino: Any, graph: Model, end: Tensor) -> Model | None:
    own = {node.get_name() for node in graph.get_ordered_ops()}
    consumers = [use for use in end.get_target_inputs() if use.get_node().get_name() in own]
    if {use.get_node().get_type_name() for use in consumers} == {"Result"}:
        return None
    received = openvino.opset13.parameter(end.get_partial_shape(), end.get_element_type())
    for consumer in consumers:
        consumer.replace_source_output(received.output(0))
    images = _images(graph).get_name()
    more = [node for node in graph.get_parameters() if node.get_name() != images]
    return openvino.Model(graph.get_results(), [received, *more], "head")


def _products(model: Model) -> list[str]:
    """The kinds of all matrix products and convolutions in a graph."""
    kinds = (node.get_type_name() for node in model.get_ordered_ops())
    return [kind for kind in kinds if kind in _PRODUCTS]


def constant_bytes(model: Model) -> int:
    """The size of a graph's weights."""
    constants = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")
    return sum(int(node.get_byte_size()) for node in constants)


def graph_digest(model: Model) -> str:
    """A digest of a whole graph, made of operations that a division has digested."""
    digests = _digests(model)
    ends = [digests[node.get_name()] for node in model.get_results()]
    return hashlib.sha256("".join(ends).encode()).hexdigest()


def _bottlenecks(model: Model) -> Iterator[tuple[str, Tensor]]:
    """The tensors through which all that depends on the images goes, in order, by digest."""
    digests = _digests(model)
    for tensor in _single_tensors(model) if digests else ():
        shape = tensor.get_partial_shape()
        if (
            tensor.get_element_type().get_type_name() == "f32"
            and shape.rank.is_static
            and all(side.is_static for side in list(shape)[1:])
        ):
            yield _tensor_digest(digests, tensor), tensor


def _single_tensors(model: Model) -> Iterator[Tensor]:
    images = _images(model)
    others = {node.get_name() for node in model.get_parameters()} - {images.get_name()}
    position: dict[str, int] = {images.get_name(): 0}
    nodes: list[Node] = [images]
    last_use: list[int] = [0]
    outputs: list[set[int]] = [set()]
    for node in model.get_ordered_ops():
        inputs = _inputs(node)
        if any(source.get_node().get_name() in others for source in inputs):
            others.add(node.get_name())
        uses = [source for source in inputs if source.get_node().get_name() in position]
        if not uses:
            continue
        position[node.get_name()] = len(nodes)
        for source in uses:
            number = position[source.get_node().get_name()]
            last_use[number] = len(nodes)
            outputs[number].add(source.get_index())
        nodes.append(node)
        last_use.append(0)
        outputs.append(set())
    open_until = 0
    for number, node in enumerate(nodes):
        if node.get_name() in others:  # it depends on more than the images, as all that follows
            return
        if open_until <= number and len(outputs[number]) == 1:
            yield node.output(*outputs[number])
        open_until = max(open_until, last_use[number])


def _digests(model: Model) -> dict[str, str]:
    """A digest of each node with all that it depends on, by name; none if one is unknown."""
    digests: dict[str, str] = {}
    try:
        for node in model.get_ordered_ops():
            digest = hashlib.sha256(_description(node))
            for source in _inputs(node):
                digest.update(_tensor_digest(digests, source).encode())
            digests[node.get_name()] = digest.hexdigest()
    except (RuntimeError, TypeError, ValueError):  # what Python cannot read
        return {}
    return digests


def _description(node: Node) -> bytes:
    """All that a node is besides its inputs; names, which are arbitrary, are no part of it.

    Raises:
        ValueError: It contains more than can be seen.
    """
    kind = node.get_type_info()
    if kind.name in _WITH_BODIES:
        raise ValueError(f"'{kind.name}' contains graphs that its attributes do not show")
    types = [
        (str(output.get_partial_shape()), output.get_element_type().get_type_name())
        for output in node.outputs()
    ]
    if node.get_type_name() == "Constant":
        data: bytes = node.get_data().tobytes()
        return repr(("Constant", types)).encode() + data
    attributes = sorted((name, repr(value)) for name, value in node.get_attributes().items())
    return repr((kind.name, kind.version_id, types, attributes)).encode()


def _tensor_digest(digests: dict[str, str], tensor: Tensor) -> str:
    """The digest of one output of a node."""
    digest = digests[tensor.get_node().get_name()]
    index = tensor.get_index()
    return digest if index == 0 else hashlib.sha256(f"{digest}:{index}".encode()).hexdigest()


def _images(model: Model) -> Node:
    """The parameter that takes the images: the only one of four dimensions."""
    parameters = model.get_parameters()
    return next(node for node in parameters if node.get_output_partial_shape(0).rank == _IMAGES)


def _inputs(node: Node) -> list[Tensor]:
    return [node.input_value(index) for index in range(node.get_input_size())]
