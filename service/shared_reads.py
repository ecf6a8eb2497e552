"""Reads of the database that are the same for everybody.

Some need no key, so anyone can ask for them a thousand times at once. One of a kind runs at a time,
and answers all requests that came before it began: what was acknowledged before is in it.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from service.threads import run_in_threadpool

T = TypeVar("T")


@dataclass(slots=True)
class _Read:
    """The last read of a name: when it began, on the monotonic clock, and what came of it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    began: float = float("-inf")
    value: Any = None
    error: Exception | None = None


class SharedReads:
    """Runs one read of each name at a time. Belongs to one event loop."""

    def __init__(self) -> None:
        self._reads: defaultdict[str, _Read] = defaultdict(_Read)

    async def run(self, name: str, function: Callable[[], T]) -> T:
        """The result of a call in a thread that began after this one.

        Args:
            name: Of what is read.
            function: Blocks; always the same for a name.

        Raises:
            Exception: Whatever the function raises, for all who waited for it.
        """
        asked, read = time.monotonic(), self._reads[name]
        async with read.lock:
            if read.began < asked:
                began, read.value, read.error = time.monotonic(), None, None
                try:
                    read.value = await run_in_threadpool(function)
                except Exception as error:  # noqa: BLE001 - raised for all who wait
                    read.error = error
                read.began = began
            if read.error is not None:
                raise read.error.with_traceback(None)  # each of them adds to it
            value: T = read.value
            return value
