"""The layer names of each trainable network, without building it and without TensorFlow.

The names follow the same rules as the code that builds the networks; a test compares the two.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from contracts.training.trainings import TrainableNetwork

_MAX_SUGGESTIONS = 3
_CONVOLUTION = re.compile(r"(?!.*relu)(.*_)?(conv\d*|squeeze1x1|expand[13]x[13])")


def layer_names(network: TrainableNetwork) -> tuple[str, ...]:
    """The layers below the classifier, in order from the input, without dropout layers."""
    return tuple(_NAMES[network]())


def convolution_names(network: TrainableNetwork) -> tuple[str, ...]:
    """The full convolutions among them, without depthwise ones."""
    return tuple(name for name in layer_names(network) if _CONVOLUTION.fullmatch(name))


def suggestion(name: str, known: Sequence[str]) -> str:
    """A question with the names that a misspelled one may have meant; empty if none is similar."""
    similar = difflib.get_close_matches(name, known, _MAX_SUGGESTIONS)
    return f" Did you mean {', '.join(similar)}?" if similar else ""


def _vgg(depths: Sequence[int]) -> Iterator[str]:
    yield "image"
    for block, depth in enumerate(depths, start=1):
        yield from (f"block{block}_conv{number}" for number in range(1, depth + 1))
        yield f"block{block}_pool"


def _vgg_bn(depths: Sequence[int]) -> Iterator[str]:
    for name in tuple(_vgg(depths))[:-1]:  # it has no last pool
        yield name
        if "conv" in name:
            yield from (f"{name}_bn", f"{name}_relu")


def _cnn(blocks: Sequence[int]) -> Iterator[str]:
    """The tutorials' networks: `blocks` holds the number of convolutions before each pooling."""
    yield "image"
    number = 0
    for block, count in enumerate(blocks, start=1):
        yield from (f"conv{number + offset}" for offset in range(1, count + 1))
        number += count
        yield f"pool{block}"


def _squeezenet() -> Iterator[str]:
    yield from ("image", "conv1", "relu_conv1", "pool1")
    for number in range(2, 10):
        parts = ("squeeze1x1", "expand1x1", "expand3x3")
        yield from (f"fire{number}_{part}" for part in parts)
        yield from (f"fire{number}_relu_{part}" for part in parts)
        yield f"fire{number}_concat"
        if number in {3, 5}:
            yield f"pool{number}"


def _efficientnet_lite0() -> Iterator[str]:
    yield "image"
    yield from _normalized("stem_conv", "stem")
    for number, blocks in enumerate((1, 2, 2, 3, 3, 4, 1), start=1):
        for part in "abcd"[:blocks]:
            block = f"block{number}{part}"
            if number > 1:
                yield from _normalized(f"{block}_expand_conv", f"{block}_expand")
            yield from _normalized(f"{block}_dwconv", f"{block}_dwconv")
            yield from (f"{block}_project_conv", f"{block}_project_bn")
            if part != "a":
                yield f"{block}_add"
    yield from _normalized("head_conv", "head")


def _normalized(layer: str, name: str) -> tuple[str, str, str]:
    return layer, f"{name}_bn", f"{name}_activation"


_NAMES: dict[TrainableNetwork, Callable[[], Iterator[str]]] = {
    "vgg16": partial(_vgg, (2, 2, 3, 3, 3)),
    "vgg19": partial(_vgg, (2, 2, 4, 4, 4)),
    "vgg19_bn": partial(_vgg_bn, (2, 2, 4, 4, 4)),
    "squeezenet": _squeezenet,
    "efficientnet_lite0": _efficientnet_lite0,
    "cnn_mnist": partial(_cnn, (1, 1)),
    "cnn_small": partial(_cnn, (1, 1)),
    "cnn_pets": partial(_cnn, (2, 2)),
    "cnn_face": partial(_cnn, (1, 1, 1)),
}
