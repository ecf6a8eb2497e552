"""The deadline of a whole request: reading it, decoding, waiting and computing.

It runs on the monotonic clock from the arrival of the request, so that a slow upload uses up its
own time, and it ends in one place, as 504.
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
from contracts.settings import Settings
from service.dependencies import ServicesDep

HEADER = "X-Timeout-Ms"


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time after which the client no longer waits.

    Attributes:
        at: `time.monotonic()` seconds.
        milliseconds: The duration that was requested, for error messages.
    """

    at: float
    milliseconds: int

    @property
    def remaining(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - time.monotonic())

    def require(self) -> None:
        """Check the deadline in a thread, which cannot be cancelled from outside.

        Raises:
            DeadlineExceeded: It has passed.
        """
        if self.remaining <= 0:
            raise self._exceeded()

    def within(self, seconds: float | None, *, since: float) -> "Deadline":
        """This deadline, or the one `seconds` after `since` if that is earlier."""
        if seconds is None or since + seconds >= self.at:
            return self
        return Deadline(since + seconds, math.ceil(seconds * 1000))

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel the body of the ``async with`` at the deadline.

        Raises:
            DeadlineExceeded: The body was cancelled.
        """
        try:
            async with asyncio.timeout(self.remaining) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._exceeded() from None

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"No result within {self.milliseconds} ms. Send fewer or smaller images, request less "
            f"for each, retry later, or allow more time with {HEADER}. The first request of a "
            "kind also waits until a worker has loaded the network."
        )


async def deadline_of(
    request: Request,
    services: ServicesDep,
    x_timeout_ms: Annotated[
        int | None,
        Header(
            alias=HEADER,
            ge=1,
            description="Milliseconds that the whole request may take, including the queue.",
        ),
    ] = None,
) -> Deadline:
    """The deadline that the client requested, or the default one.

    Raises:
        ValidationFailed: It requested more than the limit.
    """
    settings = services.settings
    if x_timeout_ms is not None and x_timeout_ms > settings.max_timeout_ms:
        raise ValidationFailed(f"{HEADER} may be at most {settings.max_timeout_ms}.")
    arrived: float = request.state.arrived
    if x_timeout_ms is None:
        return default_deadline(arrived, settings)
    return Deadline(arrived + x_timeout_ms / 1000, x_timeout_ms)


def default_deadline(arrived: float, settings: Settings) -> Deadline:
    """The deadline of a request without the header that arrived then (`time.monotonic()`)."""
    milliseconds = min(settings.default_timeout_ms, settings.max_timeout_ms)
    return Deadline(arrived + milliseconds / 1000, milliseconds)


DeadlineDep = Annotated[Deadline, Depends(deadline_of)]
