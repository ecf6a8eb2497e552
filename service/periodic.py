"""Work that goes on beside the requests, round after round, for as long as the process lives.

A fault costs one round and a line in the log, never the rounds after it: a watch that dies unseen
would leave a service that looks alive and answers nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import RedisError

from contracts.errors import OpsinError

log = structlog.get_logger()


class Rounds:
    """One such work.

    Args:
        name: Tells the task and its log lines from others.
        work: One round.
        seconds: The pause before each round.
        after_fault: The pause after a round that failed, in seconds, if it is not the same.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        seconds: float,
        after_fault: float | None = None,
    ) -> None:
        self._name = name
        self._work = work
        self._seconds = seconds
        self._after_fault = seconds if after_fault is None else after_fault
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._go_on(), name=self._name)

    async def now(self) -> None:
        """One round at once; a fault is logged, as that of any other."""
        await self._round()

    async def stop(self) -> None:
        # The flag as well: Python 3.11's `wait_for`, which redis-py writes with, swallows a
        # cancellation that comes just when the write is done.
        self._stopped = True
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self) -> None:
        pause = self._seconds
        while not self._stopped:
            await asyncio.sleep(pause)
            pause = self._seconds if await self._round() else self._after_fault

    async def _round(self) -> bool:
        """Whether it went well."""
        try:
            await self._work()
        except (RedisError, OSError, OpsinError) as error:
            log.warning("round_failed", work=self._name, error=type(error).__name__)
        except Exception:
            log.exception("round_failed", work=self._name)
        else:
            return True
        return False
