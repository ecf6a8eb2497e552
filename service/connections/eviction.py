"""Which connections are closed for the next one, when all are in use.

Some of the address that has most of the least important ones: those whose last answer is not read,
then those that wait for a head, then idle ones, then requests that have not begun, then unfinished
bodies and unread answers. An address that has more than a quarter of all closes only its own.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from service.connections.descriptors import LEAVING_SHARE

_GREEDY_SHARE = 4  # one in so many connections may be slow, whoever else comes
EVICTED_SHARE = 20  # one in so many connections is closed at a time, so that few look for them
_SLOW_SECONDS = 2.0  # after which a client that still has an answer to read is a slow one
_REFUSED_SECONDS = 0.1  # for which nobody looks for an address again, where nothing was found


class Connection(Protocol):
    """A connection, as it is compared with others.

    Attributes:
        network: Of the client.
        is_closing: Whether it is closed, though the client may have yet to read the rest.
        is_stuck: Whether it is closed, and the client does not read the rest.
        is_idle: Whether no request is in progress.
        is_in_head: Whether the head of a request is incomplete or awaited.
        is_slow: Whether it takes long through the client's own doing.
        is_queued: Whether its request has not begun.
        is_proxied: Whether a trusted proxy opened it.
        waits_since: Comparable among connections that wait for the same.
    """

    network: str
    is_queued: bool

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


class Reader(Protocol):
    """A connection whose client has yet to read what was written.

    Attributes:
        network: Of the client.
        paused_at: Since when.
    """

    network: str
    paused_at: float


ConnectionT = TypeVar("ConnectionT", bound=Connection)
ReaderT = TypeVar("ReaderT", bound=Reader)


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
    few = max(1, limit // EVICTED_SHARE)
    own = [c for c in others if c.network == newcomer.network]
    most = _crowd(others)
    is_own = _is_greedy(own, limit)
    waiting = [c for c in (own if is_own else others) if c.is_idle]
    heads = _crowd(c for c in waiting if c.is_in_head)
    queued = _crowd(c for c in others if c.is_queued and not c.is_proxied)
    is_long = len(queued) > few and queued[0].network != newcomer.network
    crowds = (
        _crowd(stuck),
        _crowd(leaving) if excess else [],
        heads if len(heads) > few else [],  # a few may be ordinary requests on their way
        _crowd(c for c in waiting if not c.is_in_head),
        queued if is_long and not is_own else [],
        [c for c in most if c.is_slow] if not is_own and _is_greedy(most, limit) else [],
        [] if is_own else heads,
    )
    crowd = next((crowd for crowd in crowds if crowd), [])
    crowd.sort(key=lambda c: c.waits_since)
    return crowd[: max(1, min(len(crowd) // 2, len(others) // EVICTED_SHARE))]


def to_cut_off(unread: Mapping[ReaderT, int], now: float) -> list[ReaderT]:
    """The connections to close in turn, while too many bytes of answers are unread.

    A large answer that has just been written is not read slowly, whatever is left of it.

    Args:
        unread: Bytes that each client has yet to read.
        now: Comparable with `paused_at`.

    Returns:
        Those that wait for more than a moment before the others; of either, those of the address
        with the most bytes first, which waits longest first.
    """
    slow = {c for c in unread if now - c.paused_at > _SLOW_SECONDS}
    held = Counter[tuple[bool, str]]()
    for connection, size in unread.items():
        held[connection in slow, connection.network] += size
    return sorted(unread, key=lambda c: (c not in slow, -held[c in slow, c.network], c.paused_at))


class RefusedNetworks:
    """Those for which nothing could be closed a moment ago.

    To look at all connections takes twenty times as long as to refuse one.
    """

    def __init__(self) -> None:
        self._networks: set[str] = set()
        self._until = 0.0

    def add(self, network: str, now: float) -> None:
        """Remember a network, for a moment that begins with the first one."""
        if not self._networks:
            self._until = now + _REFUSED_SECONDS
        self._networks.add(network)

    def has(self, network: str, now: float) -> bool:
        """Whether to refuse the connection of a network without a look."""
        if now >= self._until:
            self._networks.clear()
        return network in self._networks


def _is_greedy(crowd: Sequence[Connection], limit: int) -> bool:
    """Whether an address holds more than a quarter, and is not that of a proxy."""
    return len(crowd) * _GREEDY_SHARE > limit and not crowd[0].is_proxied


def _crowd(connections: Iterable[ConnectionT]) -> list[ConnectionT]:
    """The connections of the address that has most of them."""
    by_network: dict[str, list[ConnectionT]] = {}
    for connection in connections:
        by_network.setdefault(connection.network, []).append(connection)
    return max(by_network.values(), key=len, default=[])
