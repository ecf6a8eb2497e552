"""Bounds how many log lines refused requests can cause.

Everyone can make a service write a line: a key is not needed for 401 or 404, and thousands of
requests a second are refused with 429. Without a bound, one address fills the disk, and what
matters is lost among its lines.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

import structlog

LINES_PER_SECOND = 10.0  # of one address, in the long run
BURST = 200.0
_MAX_ADDRESSES = 4096
_REPORT_SECONDS = 10.0

log = structlog.get_logger()


class LineLimit:
    """A budget of lines for each address, and ten times that for all addresses together.

    Args:
        clock: Monotonic seconds.
        burst: Lines that one address may cause at once.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, burst: float = BURST
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # lines, as of when
        self._left_out = 0
        self._reported = clock()

    def allows(self, network: str) -> bool:
        """Whether to write a line that a client of that address causes; counts it."""
        now = self._clock()
        allowed = self._take(network, 1.0, now) and self._take("", 10.0, now)
        self._left_out += not allowed
        if self._left_out and now - self._reported >= _REPORT_SECONDS:
            log.warning("lines_left_out", count=self._left_out)
            self._left_out, self._reported = 0, now
        return allowed

    def _take(self, network: str, share: float, now: float) -> bool:
        lines, as_of = self._budgets.pop(network, (self._burst * share, now))
        lines = min(self._burst * share, lines + (now - as_of) * LINES_PER_SECOND * share)
        self._budgets[network] = (lines - 1 if lines >= 1 else lines, now)
        if len(self._budgets) > _MAX_ADDRESSES:
            self._budgets.popitem(last=False)
        return lines >= 1
