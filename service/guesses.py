"""Counts wrong keys by address, and refuses one that guesses on.

Keys of ours cannot be guessed, and so are looked at whoever sends them: others behind the same
address are not locked out. OPSIN_API_KEY was chosen by a person; from an address that has sent too
many wrong keys it is not even compared. Counted in this process: it needs no Redis, and N
processes allow N times as many.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

from contracts.errors import RateLimited

MOST_GUESSES = 20  # wrong keys of one address within the window
WINDOW_SECONDS = 60.0
_MOST_ADDRESSES = 10_000


class Guesses:
    """Wrong keys, by address.

    Args:
        clock: Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def require_patience(self, host: str) -> None:
        """Check that an address may try another key.

        Raises:
            RateLimited: It sent too many wrong ones.
        """
        began, count = self._found.get(_network(host), (0.0, 0))
        left = began + WINDOW_SECONDS - self._clock()
        if count >= MOST_GUESSES and left > 0:
            raise RateLimited(
                "Too many wrong keys came from this address. Come again later.", retry_after=left
            )

    def note(self, host: str) -> None:
        """Count a wrong key; the oldest address makes room for a new one."""
        network, now = _network(host), self._clock()
        began, count = self._found.pop(network, (now, 0))
        if now - began >= WINDOW_SECONDS:
            began, count = now, 0
        self._found[network] = (began, count + 1)
        if len(self._found) > _MOST_ADDRESSES:
            self._found.popitem(last=False)


def _network(host: str) -> str:
    """The address; of IPv6 the /64 that one customer has."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))
