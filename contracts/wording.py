"""Times to wait, and lists of names, in words."""

import math
from collections.abc import Iterable

_SHOWN = 10


def in_words(seconds: float) -> str:
    """A time to wait, rounded up: 45 seconds, 30 minutes, 2 hours."""
    if seconds < 90:
        return _counted(max(1, math.ceil(seconds)), "second")
    if seconds < 90 * 60:
        return _counted(math.ceil(seconds / 60), "minute")
    return _counted(math.ceil(seconds / 3600), "hour")


def few(names: Iterable[str]) -> str:
    """The first ten names, and how many more there are; "none" without any."""
    known = list(names)
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return (", ".join(known[:_SHOWN]) or "none") + more


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
