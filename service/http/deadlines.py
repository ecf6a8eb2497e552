"""The deadline of a whole request: reading it, decoding, waiting and computing.

It runs on the monotonic clock from the moment of arrival, so that a slow upload uses up its own
time, and it ends in one place, as 504.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request

from contracts.errors import DeadlineExceeded, ValidationFailed
from service.dependencies import ServicesDep

HEADER = "X-Timeout-Ms"


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which nobody waits.

    Attributes:
        at: `time.monotonic()` seconds.
        milliseconds: What was asked for, to tell the client.
    """

    at: float
    milliseconds: int

    @property
    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def require(self) -> None:
        """Give up here, in a thread that nobody can stop from outside.

        Raises:
            DeadlineExceeded: The time is up.
        """
        if self.remaining <= 0:
            raise self._passed()

    def within(self, seconds: float | None, *, since: float) -> "Deadline":
        """The same, or the one so many seconds after `since` if that comes first."""
        if seconds is None or since + seconds >= self.at:
            return self
        return Deadline(since + seconds, math.ceil(seconds * 1000))

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel the body of the ``async with`` when the time is up.

        Raises:
            DeadlineExceeded: It was.
        """
        try:
            async with asyncio.timeout(self.remaining) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._passed() from None

    def _passed(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"No answer within {self.milliseconds} ms. Send fewer or smaller images, ask for less "
            f"of each, try again later, or allow more time with {HEADER}. The first request of a "
            "kind also waits until a worker has loaded the network for it."
        )


async def deadline_of(
    request: Request,
    services: ServicesDep,
    x_timeout_ms: Annotated[
        int | None,
        Header(
            alias=HEADER,
            ge=1,
            description="Milliseconds the whole request may take, the wait in the queue included.",
        ),
    ] = None,
) -> Deadline:
    """The deadline that the client asked for, or else the default one.

    Raises:
        ValidationFailed: It asked for more than the limit.
    """
    settings = services.settings
    if x_timeout_ms is not None and x_timeout_ms > settings.max_timeout_ms:
        raise ValidationFailed(f"{HEADER} may be at most {settings.max_timeout_ms}.")
    milliseconds = x_timeout_ms or min(settings.default_timeout_ms, settings.max_timeout_ms)
    return Deadline(request.state.arrived + milliseconds / 1000, milliseconds)


Timed = Annotated[Deadline, Depends(deadline_of)]
