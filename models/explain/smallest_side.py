"""The smallest picture that a part of a network takes: below it some map has no pixel left.

Told from shapes alone, before anything runs: a kernel that meets an empty map may end the process.
"""

from bisect import bisect_left
from typing import Any

import keras


def smallest_side(part: keras.Model, most: int) -> int | None:
    """The side of the smallest square picture that leaves no map empty.

    Args:
        part: From a picture of any size to maps. What takes a size takes every larger one.
        most: Sides above it are not looked at.

    Returns:
        Pixels; None if `most` is too small.
    """
    sides = range(1, most + 1)
    at = bisect_left(sides, True, key=lambda side: _fits(part, side))
    return sides[at] if at < most else None


def _fits(part: keras.Model, side: int) -> bool:
    image = keras.Input((side, side, part.inputs[0].shape[-1]))
    try:
        keras.models.clone_model(
            part,
            input_tensors=keras.tree.pack_sequence_as(part.input, [image]),
            clone_function=lambda layer: layer,
            call_function=_called,
        )
    except ValueError:  # what Keras raises for a side below one, where it does
        return False
    return True


def _called(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
    output = layer(*args, **kwargs)
    for tensor in keras.tree.flatten(output):
        if any(side is not None and side < 1 for side in tensor.shape):
            raise ValueError(f"Nothing is left after {layer.name}.")
    return output
