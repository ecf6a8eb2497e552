"""The trainings of a sweep: the combinations of its grid. Needs no TensorFlow."""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from contracts.errors import ValidationFailed


def combinations(
    grid: Mapping[str, Sequence[Any]], most: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The combinations of a grid, the last field varying fastest.

    If there are more than `most`, as many are drawn, which do not depend on anything but the seed.
    """
    total = prod(map(len, grid.values()))
    drawn = sorted(random.Random(seed).sample(range(total), most)) if total > most else range(total)  # noqa: S311
    for number in drawn:
        values: dict[str, Any] = {}
        rest = number
        for path in reversed(list(grid)):
            rest, index = divmod(rest, len(grid[path]))
            values[path] = grid[path][index]
        yield {path: values[path] for path in grid}


def with_values(training: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a training with the value of each path; other fields stay.

    Raises:
        ValidationFailed: A path leads into something that is no object, which is named; or the body
            is nested too deeply.
    """
    try:
        body: dict[str, Any] = copy.deepcopy(dict(training))
    except RecursionError:
        raise ValidationFailed("training: it is nested far deeper than any training.") from None
    for path, value in values.items():
        *parents, name = path.split(".")
        part = body
        for parent in parents:
            inner = part.get(parent)
            if inner is None:
                inner = part[parent] = {}
            if not isinstance(inner, dict):
                raise ValidationFailed(f"grid: {path}: {parent} is no object in the training.")
            part = inner
        part[name] = value
    return body
