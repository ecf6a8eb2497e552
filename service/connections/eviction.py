"""Which connections are closed for the next one, when all are in use.

Some of the address that has most of the least important ones: those whose last answer is not read,
then those that wait for a head, then idle ones, then unfinished bodies and unread answers.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, TypeVar

from service.connections.descriptors import LEAVING_SHARE

_GREEDY_SHARE = 4  # one in so many connections may have slow bodies, whoever else comes
_EVICTED_SHARE = 20  # one in so many connections is closed at a time, so that few look for them


class Connection(Protocol):
    """A connection, as it is compared with others.

    Attributes:
        network: Of the client.
        is_closing: Whether it is closed, though the client may have yet to read the rest.
        is_stuck: Whether it is closed, and the client does not read the rest.
        is_idle: Whether no request is in progress.
        is_in_head: Whether the head of a request is incomplete or awaited.
        is_slow: Whether it takes long through the client's own doing.
        is_proxied: Whether a trusted proxy opened it.
        waits_since: Comparable among connections that wait for the same.
    """

    network: str

    @property
    def is_closing(self) -> bool: ...
    @property
    def is_stuck(self) -> bool: ...
    @property
    def is_idle(self) -> bool: ...
    @property
    def is_in_head(self) -> bool: ...
    @property
    def is_slow(self) -> bool: ...
    @property
    def is_proxied(self) -> bool: ...
    @property
    def waits_since(self) -> float: ...


ConnectionT = TypeVar("ConnectionT", bound=Connection)


def to_evict(
    newcomer: ConnectionT, known: Collection[ConnectionT], limit: int
) -> list[ConnectionT] | None:
    """The connections to close for a new one.

    Args:
        newcomer: The new one.
        known: All others.
        limit: How many there may be.

    Returns:
        None if nothing has to be closed; an empty list if nothing may be.
    """
    others = [c for c in known if not c.is_closing]
    leaving = [c for c in known if c.is_closing and not c.is_stuck]
    excess = max(0, len(leaving) - limit // LEAVING_SHARE)
    stuck = [c for c in known if c.is_stuck]
    if len(others) + len(stuck) + excess < limit:
        return None
    waiting = [c for c in others if c.is_idle]
    heads = _crowd(c for c in waiting if c.is_in_head)
    crowds = (
        _crowd(stuck),
        _crowd(leaving) if excess else [],
        heads if len(heads) > 1 else [],  # a single one may be an ordinary request on its way
        _crowd(c for c in waiting if not c.is_in_head),
        heads,
        _slow_ones_of_the_greedy(newcomer, others, limit),
    )
    crowd = next((crowd for crowd in crowds if crowd), [])
    crowd.sort(key=lambda c: c.waits_since)
    return crowd[: max(1, min(len(crowd) // 2, len(others) // _EVICTED_SHARE))]


def _slow_ones_of_the_greedy(
    newcomer: ConnectionT, others: Sequence[ConnectionT], limit: int
) -> list[ConnectionT]:
    """Of an address that holds more than a quarter, what is slow. Never for itself."""
    crowd = _crowd(others)
    network = crowd[0].network if crowd else ""
    is_own = network == newcomer.network or (crowd and crowd[0].is_proxied)
    if is_own or len(crowd) * _GREEDY_SHARE <= limit:
        return []
    return [one for one in crowd if one.is_slow]


def _crowd(connections: Iterable[ConnectionT]) -> list[ConnectionT]:
    """The connections of the address that has most of them."""
    by_network: dict[str, list[ConnectionT]] = {}
    for connection in connections:
        by_network.setdefault(connection.network, []).append(connection)
    return max(by_network.values(), key=len, default=[])
