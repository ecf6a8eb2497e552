"""Counts wrong keys by address; an address that sends too many receives 429 instead of 401.

A valid key is never refused because of other requests from its address: behind a proxy or a router
others send what they like. The count informs a misconfigured client and makes guessing visible in
the log; what makes guessing hopeless is the length of the keys. Each wrong key counts once in a
window, so a client with an outdated key does not count as guessing. The counts belong to this
process: they need no Redis, and N processes allow N times as many.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

from contracts.errors import RateLimited
from contracts.keys import KEY_PATTERN
from service.http.addresses import network_of

MAX_FAILED_ATTEMPTS = 20  # different wrong keys of one address within the window
WINDOW_SECONDS = 60.0
_MAX_ADDRESSES = 10_000

log = structlog.get_logger()


class FailedAttempts:
    """Wrong keys by address.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By address: when its window began, and the fingerprints of its wrong keys.
        self._windows: OrderedDict[str, tuple[float, set[bytes]]] = OrderedDict()

    def record(self, host: str, credential: str) -> None:
        """Count a wrong key. With too many addresses, the oldest one is forgotten.

        Args:
            host: The client's address.
            credential: What the client sent.

        Raises:
            RateLimited: The address sent too many different ones before.
        """
        network, now = network_of(host), self._clock()
        began, seen = self._windows.pop(network, (now, set[bytes]()))
        if now - began >= WINDOW_SECONDS:
            began, seen = now, set()
        self._windows[network] = (began, seen)
        if len(self._windows) > _MAX_ADDRESSES:
            self._windows.popitem(last=False)
        fingerprint = _fingerprint(credential)
        if len(seen) < MAX_FAILED_ATTEMPTS:
            seen.add(fingerprint)
            if len(seen) == MAX_FAILED_ATTEMPTS:
                log.warning("keys_are_guessed", network=network)
        elif fingerprint not in seen:
            raise RateLimited(
                "Too many wrong keys came from this address. Retry later.",
                retry_after=began + WINDOW_SECONDS - now,
            )


def _fingerprint(credential: str) -> bytes:
    """Equal for equal keys; of a key in our format only its public id counts."""
    match = KEY_PATTERN.fullmatch(credential)
    text = credential if match is None else match[1]
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8]
