"""The durations of the stages of a request, as its response reports them."""

import time
from collections.abc import Iterable
from typing import Protocol

from fastapi import Request

from contracts.inference.inference import Timing
from service.inference.decoder import DecodedUpload


class Timed(Protocol):
    """A result of a worker or of the cache."""

    @property
    def queue_seconds(self) -> float: ...

    @property
    def compute_seconds(self) -> float: ...


def timing_of(
    request: Request, decoded: Iterable[DecodedUpload], results: Iterable[Timed] = ()
) -> Timing:
    """The slowest image of each stage, and the total up to now."""
    results = tuple(results)
    return Timing(
        decode=milliseconds(max((image.seconds for image in decoded), default=0)),
        queue=milliseconds(max((result.queue_seconds for result in results), default=0)),
        compute=milliseconds(max((result.compute_seconds for result in results), default=0)),
        total=milliseconds(time.monotonic() - request.state.arrived),
    )


def milliseconds(seconds: float) -> float:
    """Milliseconds, rounded to a readable precision."""
    return round(seconds * 1000, 1)
