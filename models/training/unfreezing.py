"""Which layers and blocks `unfreeze_from` may name; known without TensorFlow, so asked at once.

The names are told by the same rules as the networks are built by; a test compares them with the
layers themselves.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence

from contracts.errors import ValidationFailed
from contracts.trainings import TrainableNetwork, TrainingRequest

_BLOCK = re.compile(r"(([a-z]+\d+)[a-z]?)(?=_|$)")
_MOST_ALIKE = 3


def check_unfreezing(request: TrainingRequest) -> None:
    """Whether there is what is to be unfrozen; asked before anything queues or learns.

    Raises:
        ValidationFailed: The network has no such layer or block.
    """
    if request.unfreeze_from is not None:
        position(base_layers(request.network), request.unfreeze_from)


def position(names: Sequence[str], wanted: str) -> int:
    """Where a layer, or the first layer of a block such as ``block5`` or ``fire9``, stands.

    Args:
        names: Of the base's layers, from the picture on.
        wanted: One of them, or a block of them.

    Raises:
        ValidationFailed: There is none; says which there are.
    """
    if wanted in names:
        return names.index(wanted)
    blocks = _blocks(names)
    if wanted in blocks:
        return blocks[wanted]
    alike = difflib.get_close_matches(wanted, [*names, *blocks], _MOST_ALIKE)
    nearest = f" Near it are {', '.join(alike)}." if alike else ""
    # Parts of a block, such as block6a of block6, would only make the list longer.
    whole = [name for name in blocks if name[-1].isdecimal()]
    raise ValidationFailed(
        f"unfreeze_from: the network has no layer or block '{wanted[:64]}'.{nearest} "
        f"Blocks: {', '.join(whole)}. GET /v1/models/{{name}}/layers lists the layers."
    )


def base_layers(network: TrainableNetwork) -> tuple[str, ...]:
    """The names of a pretrained network's layers below its classifier; none for the others."""
    return tuple(_NAMES[network]()) if network in _NAMES else ()


def _blocks(names: Sequence[str]) -> dict[str, int]:
    """Every block and part of one, by where its first layer stands."""
    found: dict[str, int] = {}
    for place, name in enumerate(names):
        if match := _BLOCK.match(name):
            found.setdefault(match[2], place)
            found.setdefault(match[1], place)
    return found


def _vgg16() -> Iterator[str]:
    yield "image"
    for block, depth in enumerate((2, 2, 3, 3, 3), start=1):
        yield from (f"block{block}_conv{number}" for number in range(1, depth + 1))
        yield f"block{block}_pool"


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
    yield from _normalised("stem_conv", "stem")
    for number, blocks in enumerate((1, 2, 2, 3, 3, 4, 1), start=1):
        for part in "abcd"[:blocks]:
            block = f"block{number}{part}"
            if number > 1:
                yield from _normalised(f"{block}_expand_conv", f"{block}_expand")
            yield from _normalised(f"{block}_dwconv", f"{block}_dwconv")
            yield from (f"{block}_project_conv", f"{block}_project_bn")
            if part != "a":
                yield f"{block}_add"
    yield from _normalised("head_conv", "head")


def _normalised(layer: str, name: str) -> tuple[str, str, str]:
    return layer, f"{name}_bn", f"{name}_activation"


_NAMES: dict[TrainableNetwork, Callable[[], Iterator[str]]] = {
    "vgg16": _vgg16,
    "squeezenet": _squeezenet,
    "efficientnet_lite0": _efficientnet_lite0,
}
