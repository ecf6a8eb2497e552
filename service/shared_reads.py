"""Reads of the database that are the same for everybody.

Some need no key, so anyone can ask for them a thousand times at once. One of a kind runs at a time,
and answers all requests that came before it began: what was acknowledged before is in it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from service.shared_check import SharedCheck
from service.threads import run_in_threadpool

T = TypeVar("T")


class _Read:
    """The last result of a function, which one check at a time replaces."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.check = SharedCheck(self._run)
        self.value: Any = None
        self.error: Exception | None = None

    async def _run(self) -> None:
        value, error = None, None
        try:
            value = await run_in_threadpool(self.function)
        except Exception as raised:  # noqa: BLE001 - raised for all who wait
            error = raised
        self.value, self.error = value, error


class SharedReads:
    """Runs one read of each name at a time. Belongs to one event loop."""

    def __init__(self) -> None:
        self._reads: dict[str, _Read] = {}

    async def run(self, name: str, function: Callable[[], T]) -> T:
        """The result of a call in a thread that began after this one.

        Args:
            name: Of what is read.
            function: Blocks; always the same for a name.

        Raises:
            Exception: Whatever the function raises, for all who waited for it.
        """
        read = self._reads.setdefault(name, _Read(function))
        read.function = function
        await read.check.refresh()
        if read.error is not None:
            raise read.error.with_traceback(None)  # each of them adds to it
        value: T = read.value
        return value
