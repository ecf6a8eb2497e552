"""Tasks that run repeatedly in the background for as long as the process lives.

A failure ends one run and is logged; it never ends the later runs. A check that stopped unnoticed
would leave a service that looks alive and answers no request.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from redis.exceptions import RedisError

from contracts.errors import OpsinError

log = structlog.get_logger()


class PeriodicTask:
    """Runs a coroutine function again and again.

    Args:
        name: Identifies the task in the log.
        work: What to run.
        seconds: The pause before each run.
        first: The pause before the first run, in seconds, if it differs. What is due every ten
            minutes would never run in a process that is restarted more often.
        after_fault: The pause after a run that failed, in seconds, if it differs.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[object]],
        *,
        seconds: float,
        first: float | None = None,
        after_fault: float | None = None,
    ) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._first = seconds if first is None else first
        self._after_fault = seconds if after_fault is None else after_fault
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._has_run = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._loop(), name=self._name)

    async def first_run(self, seconds: float) -> None:
        """Wait until the first run has ended, but not longer than `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_run.wait()

    async def run_once(self) -> bool:
        """Run at once and log a failure; returns whether it succeeded."""
        try:
            await self._work()
        except (RedisError, OSError, OpsinError) as error:
            log.warning("round_failed", work=self._name, error=type(error).__name__)
        except Exception:
            log.exception("round_failed", work=self._name)
        else:
            return True
        return False

    async def stop(self) -> None:
        # The attribute as well: in Python 3.11, `wait_for`, which redis-py writes with, swallows a
        # cancellation that arrives just when the write has finished.
        self._stopped = True
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _loop(self) -> None:
        pause = self._first
        while not self._stopped:
            await asyncio.sleep(pause)
            pause = self._seconds if await self.run_once() else self._after_fault
            self._has_run.set()
