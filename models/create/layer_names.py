"""The layers of published bases by name, known without TensorFlow, and their names in papers."""

import re
from collections.abc import Iterator
from functools import cache

from contracts.errors import LayerNotFound
from contracts.suggestions import similar

_VGG_BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_PAPER = re.compile(r"^(conv|relu)([1-5])_([1-4])$|^pool([1-5])$")
"""A VGG layer in papers and in Caffe: ``conv4_2``, with its activation as in ``relu4_2``."""


@cache
def layer_names(network: str) -> tuple[str, ...] | None:
    """The layers of a base from its first to its last one; None if they are not listed here."""
    if network in _VGG_BLOCKS:
        return tuple(_vgg(_VGG_BLOCKS[network]))
    return tuple(_squeezenet()) if network == "squeezenet" else None


def required_layer(network: str, name: str) -> str:
    """The layer's name in the network; as it is if the network's layers are not listed here.

    Raises:
        LayerNotFound: There is no such layer; names similar ones.
    """
    known = layer_names(network)
    if known is None or name in known:
        return name
    if (translated := _translated(name)) in known:
        return translated
    raise LayerNotFound(f"{network} has no layer '{name[:64]}'.{similar(name[:64], known)}")


def _translated(name: str) -> str:
    found = _PAPER.match(name)
    if found is None:
        return name
    return f"block{found[4]}_pool" if found[4] else f"block{found[2]}_conv{found[3]}"


def _vgg(blocks: tuple[int, ...]) -> Iterator[str]:
    for block, count in enumerate(blocks, 1):
        yield from (f"block{block}_conv{number}" for number in range(1, count + 1))
        yield f"block{block}_pool"


def _squeezenet() -> Iterator[str]:
    yield from ("conv1", "relu_conv1", "pool1")
    for fire in range(2, 10):
        parts = ("squeeze1x1", "relu_squeeze1x1", "expand1x1", "expand3x3")
        parts += ("relu_expand1x1", "relu_expand3x3", "concat")
        yield from (f"fire{fire}_{part}" for part in parts)
        if fire in {3, 5}:
            yield f"pool{fire}"
