"""Digests of what the nodes of a graph compute, by which a tensor is recognized in another graph.

A node's digest follows from its operation, its constants and the digests of its inputs: from all
that leads to it, down to the image. So a layer of a version that was trained on a frozen base has
the digest that it has in the published network, and it has another one as soon as any weight below
it has changed. Names do not count, nor does how numbers are arranged in memory, nor the size of the
images.
"""

import hashlib
from typing import Any

import numpy as np

Model = Any
Node = Any

MOVES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze"})
"""Operations that arrange numbers differently; they have the digest of their input."""

_SIZE = 12  # bytes
_ATTRIBUTES = ("strides", "dilations", "kernel", "auto_pad", "min", "max", "alpha")
_PADS = ("pads_begin", "pads_end")


def digests(model: Model) -> dict[str, str]:
    """The digest of each node of an `openvino.Model`, by the node's unique name."""
    known: dict[str, str] = {}
    for node in model.get_ordered_ops():
        inputs = [known[source.get_node().get_name()] for source in node.input_values()]
        if node.get_type_name() in MOVES:
            known[node.get_name()] = inputs[0]
        else:
            known[node.get_name()] = _digest(node, inputs)
    return known


def edge(consumer: str, port: int) -> str:
    """Names an input of a node by the node's digest."""
    return f"{consumer}:{port}"


def _digest(node: Node, inputs: list[str]) -> str:
    hasher = hashlib.blake2b(digest_size=_SIZE)
    hasher.update(node.get_type_name().encode())
    if node.get_type_name() == "Constant":
        hasher.update(np.ascontiguousarray(node.data).tobytes())
    else:
        hasher.update(repr(_attributes(node)).encode())
    for digest in inputs:
        hasher.update(digest.encode())
    return hasher.hexdigest()


def _attributes(node: Node) -> list[tuple[str, str]]:
    """Those that change the result, without those that follow from the size of the input."""
    every = node.get_attributes()
    names = [name for name in _ATTRIBUTES if name in every]
    if not str(every.get("auto_pad", "")).lower().startswith("same"):
        names += [name for name in _PADS if name in every]
    return [(name, _text(every[name])) for name in names]


def _text(value: Any) -> str:
    return str(np.asarray(value).tolist()).lower()
