"""Headers that are lists of what a client accepts or prefers (RFC 9110, 5.6.1)."""

from collections.abc import Iterable

_MAX_ITEMS = 100  # of a head of 64 kB, tens of thousands would keep the event loop busy
_MAX_CHARACTERS = 4096


def items_of(values: Iterable[str]) -> list[str]:
    """The first items of a header, in lower case; one may be sent several times."""
    return ",".join(values)[:_MAX_CHARACTERS].lower().split(",")[:_MAX_ITEMS]
