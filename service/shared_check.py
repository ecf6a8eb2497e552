"""A check for changes that many requests may ask for at once, and how fresh its last result is."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from service.inference.fair_pool import CALLER, NOBODY
from service.threads import CHANGES

_LONGEST_REST_SECONDS = 1.0


class SharedCheck:
    """Runs one check at a time; whoever asks gets the result of one that began afterwards.

    Requests that ask while a check is running share the next one. Belongs to one event loop.

    Args:
        check: Reads what may have changed.
        share: Of the time that checks may take together. If one takes 70 ms and may have a fifth,
            the next begins no sooner than 280 ms after it, however many ask. One that takes long,
            since it waits for others, is not followed by more than a second.
    """

    def __init__(self, check: Callable[[], Awaitable[object]], *, share: float = 1.0) -> None:
        self._check = check
        self._share = share
        self._rests_until = 0.0
        self._lock = asyncio.Lock()
        self._began = float("-inf")

    def is_older_than(self, moment: float) -> bool:
        """Whether the last successful check began before `moment` of `time.monotonic()`."""
        return self._began < moment

    async def refresh(self) -> None:
        """Check, unless another check that began after this call has already succeeded.

        Raises:
            Exception: Whatever the check raises.
        """
        asked = time.monotonic()
        async with self._lock:
            if self._began >= asked:
                return
            if (rest := self._rests_until - time.monotonic()) > 0:
                await asyncio.sleep(rest)
            began = time.monotonic()
            # The service's own read, whoever asks: all requests wait for it, so it must not wait
            # for the threads of any client.
            changes, caller = CHANGES.set(False), CALLER.set(NOBODY)
            try:
                await self._check()
            finally:
                CHANGES.reset(changes)
                CALLER.reset(caller)
                now = time.monotonic()
                due = (now - began) * (1 / self._share - 1)
                self._rests_until = now + min(due, _LONGEST_REST_SECONDS)
            self._began = began
