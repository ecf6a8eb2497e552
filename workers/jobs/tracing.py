"""The traces and log fields of jobs: one span for each attempt, and one for each phase of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from contracts.tracing.origin import TraceContext
from contracts.tracing.spans import Span, begin, current_span, is_tracing, within
from database.jobs.leases import Lease

_NANO = 1_000_000_000


@contextmanager
def job_context(lease: Lease) -> Iterator[None]:
    """Log lines name the job and its request; if that was traced, so is this attempt."""
    fields = {"job": lease.job_id, "kind": lease.kind, **lease.origin.log_fields}
    for name in ("model", "version"):
        if isinstance(value := lease.request.get(name), str | int):
            fields[name] = str(value)
    with structlog.contextvars.bound_contextvars(**fields):
        attempt = _attempt(lease)
        if attempt is None:
            yield
        else:
            with within(attempt):
                yield


def _attempt(lease: Lease) -> Span | None:
    request = lease.origin.sampled
    if request is None or not is_tracing():
        return None
    attributes = {"opsin__job__id": lease.job_id, "opsin__job__kind": lease.kind}
    if lease.attempt == 1 and lease.created_at is not None:
        began = int(lease.created_at.timestamp() * _NANO)
        waited = begin("queue", request, at=began, attributes=attributes)
        if waited is not None:
            waited.end(max(began, time.time_ns()))
    return begin(
        f"job {lease.kind}",
        request,
        kind="consumer",
        attributes={**attributes, "opsin__job__attempt": lease.attempt},
    )


def attempt_header() -> str:
    """For a child process: the span of its attempt as `traceparent`, or ""."""
    part = current_span()
    return "" if part is None else part.context.header


class PhaseSpans:
    """One span for each phase of an attempt, in the child process.

    Args:
        kind: Of the job.
        attempt: The span of the attempt; None if it is not traced.
    """

    def __init__(self, kind: str, attempt: TraceContext | None) -> None:
        self._attempt = attempt
        self._kind = kind
        self._phase: Span | None = None

    def enter(self, phase: str | None) -> None:
        """A phase begins, and ends the one before."""
        if self._attempt is None:
            return
        self.end()
        if phase:
            attributes = {"opsin__job__kind": self._kind, "opsin__phase": phase}
            self._phase = begin(phase, self._attempt, attributes=attributes)

    def end(self, error: str = "") -> None:
        """The present phase ends.

        Args:
            error: The code of the error that ended it, or "".
        """
        phase, self._phase = self._phase, None
        if phase is not None:
            if error:
                phase.fail(error)
            phase.end()
