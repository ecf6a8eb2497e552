"""Which layers and blocks `unfreeze_from` may name; known without TensorFlow, so asked at once."""

import re
from collections.abc import Sequence

from contracts.errors import ValidationFailed
from contracts.trainings import TrainingRequest
from models.training.layer_names import layers_of, near

_BLOCK = re.compile(r"(([a-z]+\d+)[a-z]?)(?=_|$)")


def check_unfreezing(request: TrainingRequest) -> None:
    """Whether there is what is to be unfrozen; asked before anything queues or learns.

    Raises:
        ValidationFailed: The network has no such layer or block.
    """
    if request.unfreeze_from is not None:
        position(layers_of(request.network), request.unfreeze_from)


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
    nearest = near(wanted, [*names, *blocks])
    # Parts of a block, such as block6a of block6, would only make the list longer.
    whole = [name for name in blocks if name[-1].isdecimal()]
    raise ValidationFailed(
        f"unfreeze_from: the network has no layer or block '{wanted[:64]}'.{nearest} "
        f"Blocks: {', '.join(whole)}. GET /v1/models/{{name}}/layers lists the layers."
    )


def _blocks(names: Sequence[str]) -> dict[str, int]:
    """Every block and part of one, by where its first layer stands."""
    found: dict[str, int] = {}
    for place, name in enumerate(names):
        if match := _BLOCK.match(name):
            found.setdefault(match[2], place)
            found.setdefault(match[1], place)
    return found
