"""Counts wrong keys by address, and answers one that guesses on with 429 in place of 401.

A right key is never refused for what else comes from its address: behind a proxy or a router
others send what they like. So this tells a client that it is lost, and shows in the log who
guesses; what makes guessing hopeless is the length of the keys. Each wrong key counts once in a
window, or a client with an old key would count as a guesser. Counted in this process: it needs no
Redis, and N processes allow N times as many.
"""

import hashlib
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from contracts.errors import RateLimited
from contracts.keys import KEY_PATTERN

MOST_GUESSES = 20  # different wrong keys of one address within the window
WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 10_000

log = structlog.get_logger()


class Guesses:
    """Wrong keys, by address.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[str, tuple[float, set[bytes]]] = OrderedDict()

    def note(self, host: str, shown: str) -> None:
        """Count a wrong key; the oldest address makes room for a new one.

        Args:
            host: The client's address.
            shown: What it sent.

        Raises:
            RateLimited: It sent too many before.
        """
        network, now = _network(host), self._clock()
        began, marks = self._found.pop(network, (now, set[bytes]()))
        if now - began >= WINDOW_SECONDS:
            began, marks = now, set()
        self._found[network] = (began, marks)
        if len(self._found) > _MOST_ADDRESSES:
            self._found.popitem(last=False)
        mark = _mark(shown)
        if len(marks) < MOST_GUESSES:
            marks.add(mark)
            if len(marks) == MOST_GUESSES:
                log.warning("keys_are_guessed", network=network)
        elif mark not in marks:
            raise RateLimited(
                "Too many wrong keys came from this address. Come again later.",
                retry_after=began + WINDOW_SECONDS - now,
            )


def _mark(shown: str) -> bytes:
    """What makes two wrong keys the same one; of ours the public id, since a revoked one is one."""
    match = KEY_PATTERN.fullmatch(shown)
    text = shown if match is None else match[1]
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8]


def _network(host: str) -> str:
    """The address; of IPv6 the /64 that one customer has."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))
