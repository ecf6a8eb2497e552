"""Responses, and reads for them, that are the same for everybody.

Some need no key, so anyone can ask for them a thousand times at once; others take tens of
milliseconds with hundreds of models. One of a kind is made at a time, and answers all requests that
came before it began: what was acknowledged before is in it.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from service.shared_check import SharedCheck
from service.threads import run_in_threadpool

T = TypeVar("T")

SHARE = 0.1
"""Of the time, for each kind of response whose size grows with the number of models."""


class _Read:
    """The last result of a function, which one check at a time replaces."""

    def __init__(self, share: float) -> None:
        self.work: Callable[[], Awaitable[Any]]
        self.check = SharedCheck(self._run, share=share)
        self.value: Any = None
        self.error: Exception | None = None

    async def _run(self) -> None:
        value, error = None, None
        try:
            value = await self.work()
        except Exception as raised:  # noqa: BLE001 - raised for all who wait
            error = raised
        self.value, self.error = value, error


class SharedReads:
    """Runs one read of each name at a time. Belongs to one event loop."""

    def __init__(self) -> None:
        self._reads: dict[str, _Read] = {}

    async def run(self, name: str, function: Callable[[], T], *, share: float = 1.0) -> T:
        """The result of a call in a thread that began after this one.

        Args:
            name: Of what is read.
            function: Blocks; always the same for a name.
            share: As for `SharedCheck`; always the same for a name.

        Raises:
            Exception: Whatever the function raises, for all who waited for it.
        """
        return await self.make(name, partial(run_in_threadpool, function), share=share)

    async def make(self, name: str, work: Callable[[], Awaitable[T]], *, share: float = 1.0) -> T:
        """As `run`, for what is awaited."""
        read = self._reads.setdefault(name, _Read(share))
        read.work = work
        await read.check.refresh()
        if read.error is not None:
            raise read.error.with_traceback(None)  # each of them adds to it
        value: T = read.value
        return value
