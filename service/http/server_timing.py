"""How long a request took, stage by stage, as its answer tells."""

import time
from collections.abc import Iterable
from typing import Protocol

from fastapi import Request

from contracts.inference.inference import Timing
from service.inference.decoder import Decoded


class Answered(Protocol):
    """What came back from a worker, or from the cache."""

    @property
    def queue_seconds(self) -> float: ...

    @property
    def compute_seconds(self) -> float: ...


def timing_of(
    request: Request, decoded: Iterable[Decoded], answers: Iterable[Answered] = ()
) -> Timing:
    """Of several images the slowest of each stage; the whole up to now."""
    answers = tuple(answers)
    return Timing(
        decode=milliseconds(max((one.seconds for one in decoded), default=0)),
        queue=milliseconds(max((one.queue_seconds for one in answers), default=0)),
        compute=milliseconds(max((one.compute_seconds for one in answers), default=0)),
        total=milliseconds(time.monotonic() - request.state.arrived),
    )


def milliseconds(seconds: float) -> float:
    """As precise as it can be read."""
    return round(seconds * 1000, 1)
