"""The trace of one attempt at a job, and that of its process."""

from datetime import UTC, datetime, timedelta

import pytest
import structlog

from contracts.settings import Settings
from contracts.tracing.origin import Origin, TraceContext
from contracts.tracing.spans import start_tracing, stop_tracing
from database.jobs.leases import Lease
from tests.collector import Collector, collecting
from workers.jobs.tracing import PhaseSpans, attempt_header, job_context

TRACE = TraceContext("a" * 32, "b" * 16, "01")


def lease(attempt: int = 1, flags: str = "01") -> Lease:
    origin = Origin("r1", TraceContext(TRACE.trace_id, TRACE.span_id, flags))
    created = datetime.now(UTC) - timedelta(seconds=5)
    return Lease("job_1", "w1", attempt, "training", {"model": "pets"}, origin, created)


def run_attempt(attempt: int, error: str = "", flags: str = "01") -> Collector:
    """Both sides of an attempt, in this process."""
    with collecting() as collector:
        start_tracing(Settings(_env_file=None, otlp_endpoint=collector.url), "jobs")
        with job_context(lease(attempt, flags)):
            phases = PhaseSpans("training", TraceContext.parse(attempt_header()))
            for phase in ("loading", "data", "head"):
                phases.enter(phase)
            phases.end(error)
        stop_tracing()
    return collector


def test_phases_are_parts_of_the_attempt_and_follow_each_other() -> None:
    spans = {span.name: span for span in run_attempt(1).trace(TRACE.trace_id)}
    assert set(spans) == {"queue", "job training", "loading", "data", "head"}
    attempt, waited = spans["job training"], spans["queue"]
    assert attempt.parent_id == waited.parent_id == TRACE.span_id
    assert 4.5e9 < waited.ended - waited.began < 60e9
    assert waited.ended <= attempt.began
    phases = [spans[name] for name in ("loading", "data", "head")]
    assert {span.parent_id for span in phases} == {attempt.span_id}
    assert phases[0].ended <= phases[1].began <= phases[1].ended <= phases[2].began
    assert attempt.attributes["opsin.job.id"] == "job_1"


def test_a_later_attempt_did_not_wait_and_an_error_is_that_of_its_phase() -> None:
    collected = run_attempt(2, error="out_of_memory").trace(TRACE.trace_id)
    spans = {span.name: span for span in collected}
    assert "queue" not in spans
    assert spans["job training"].attributes["opsin.job.attempt"] == 2
    assert spans["head"].attributes["error.type"] == "out_of_memory"
    assert [span.name for span in spans.values() if span.failed] == ["head"]


def test_a_job_of_an_untraced_request_is_not_traced() -> None:
    assert run_attempt(1, flags="00").spans == []


@pytest.mark.parametrize("flags", ["00", "01"])
def test_lines_name_the_job_and_its_request(flags: str) -> None:
    with job_context(lease(flags=flags)):
        fields = structlog.contextvars.get_contextvars()
    assert fields == {
        "job": "job_1",
        "kind": "training",
        "model": "pets",
        "request_id": "r1",
        "trace_id": TRACE.trace_id,
    }
    assert structlog.contextvars.get_contextvars() == {}
