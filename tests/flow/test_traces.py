"""The traces of one classification, one heatmap and one training, over all processes."""

import json
import os
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.collector import Collector, ReceivedSpan
from tests.flow.installation import Installation
from tests.flow.trainings import (
    TRAINING_SETTINGS,
    color_archive,
    submit_training,
    upload_dataset,
    wait_for_job,
)
from tests.images import encoded, scene

PICTURE = "OPSIN_TEST_TRACES"  # a file for `scripts/trace-picture`


@pytest.fixture(scope="module")
def traced(running: Installation, collector: Collector) -> Iterator[Installation]:
    """Its processes send what clients ask to be traced."""
    yield running
    if path := os.environ.get(PICTURE):
        Path(path).write_text(json.dumps([vars(span) for span in collector.spans]))


@pytest.fixture
def training(traced: Installation) -> Iterator[Installation]:
    """With a job worker, of which nothing is left afterwards."""
    traced.run("jobs", "worker --jobs", **TRAINING_SETTINGS)
    try:
        yield traced
    finally:
        traced.kill("jobs", signal.SIGTERM)
    traced.wait_until(lambda: traced.get("/v1/system").json()["job_workers"] == [], 60)
    traced.wait_until(lambda: 'process="job' not in traced.get("/metrics").text, 60)


def new_trace() -> tuple[str, dict[str, str]]:
    """The id of a trace and the headers that ask for it."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}


def only(spans: list[ReceivedSpan], name: str) -> ReceivedSpan:
    (found,) = [span for span in spans if span.name == name]
    return found


def assert_whole(spans: list[ReceivedSpan], client_id: str) -> None:
    """Each span has a parent that arrived too, or is the request; none begins before its parent."""
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        assert span.ended >= span.began
        if span.parent_id == client_id:
            continue
        assert span.parent_id in by_id, span.name
        assert span.began >= by_id[span.parent_id].began - 20_000_000, span.name  # two clocks


def batch_of(collector: Collector, trace_id: str) -> ReceivedSpan:
    """The batch that links to a request."""
    (batch,) = {
        span
        for span in collector.spans
        if trace_id in dict(span.links) and span.name.startswith("batch ")
    }
    return batch


@pytest.mark.parametrize("path", ["classify", "heatmap"])
def test_a_request_is_traced_through_all_processes(
    traced: Installation, collector: Collector, path: str
) -> None:
    trace_id, headers = new_trace()
    client_id = headers["traceparent"].split("-")[2]
    answer = httpx.post(
        f"{traced.url}/v1/{path}?model=squeezenet",
        content=encoded(scene(97, 65), "PNG"),  # its heatmap is not in the cache
        headers=headers | {"Accept": "image/png" if path == "heatmap" else "application/json"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    expected = {f"POST /v1/{path}", "decode", "infer", "queue", "compute"}
    expected |= {"render"} if path == "heatmap" else set()
    collector.until(lambda: expected <= {span.name for span in collector.trace(trace_id)})
    spans = collector.trace(trace_id)
    assert {span.name for span in spans} == expected
    assert_whole(spans, client_id)
    request = only(spans, f"POST /v1/{path}")
    assert answer.headers["traceparent"] == f"00-{trace_id}-{request.span_id}-01"
    assert (request.kind, request.parent_id) == (2, client_id)
    assert (
        request.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": f"/v1/{path}",
            "url.path": f"/v1/{path}",
            "url.scheme": "http",
            "http.response.status_code": 200,
            "opsin.model": "squeezenet",
            "opsin.version": 1,
            "opsin.operation": path,
            "opsin.request_id": answer.headers["x-request-id"],
        }.items()
    )
    assert not any("query" in name or "client" in name for name in request.attributes)
    infer = only(spans, "infer")
    for name in ("queue", "compute"):
        assert only(spans, name).parent_id == infer.span_id
        assert only(spans, name).service == "opsin-worker"
    assert {span.service for span in spans} == {"opsin-api", "opsin-worker"}
    # The batch is a trace of its own, tied to the request by links in both directions.
    collector.until(lambda: any(trace_id in dict(span.links) for span in collector.spans))
    batch = batch_of(collector, trace_id)
    assert batch.links == ((trace_id, infer.span_id),)
    assert (batch.name, batch.parent_id) == (f"batch {path}", "")
    assert only(spans, "compute").links == ((batch.trace_id, batch.span_id),)
    parts = [span for span in collector.trace(batch.trace_id) if span is not batch]
    assert Counter(span.name for span in parts) == Counter(["take", "run", "reply"])
    assert_whole(parts, batch.span_id)


def test_a_training_is_traced_through_all_processes(
    training: Installation, collector: Collector
) -> None:
    trace_id, headers = new_trace()
    client_id = headers["traceparent"].split("-")[2]
    with httpx.Client(base_url=training.url, timeout=60) as client:
        dataset = upload_dataset(client, color_archive(6)).json()["id"]
        client.headers.update(headers)
        job = submit_training(client, dataset, epochs={"scratch": 1}, promote="never")
        client.headers.pop("traceparent")
        assert wait_for_job(client, job["id"])["state"] == "succeeded"
        assert client.delete("/v1/models/colors/versions/1").status_code == 204
    collector.until(lambda: "job training" in {span.name for span in collector.trace(trace_id)})
    spans = collector.trace(trace_id)
    assert_whole(spans, client_id)
    request, attempt = only(spans, "POST /v1/trainings"), only(spans, "job training")
    assert only(spans, "queue").parent_id == attempt.parent_id == request.span_id
    assert attempt.attributes["opsin.job.id"] == job["id"]
    phases = [span for span in spans if span.parent_id == attempt.span_id]
    assert {"loading", "data", "scratch", "export", "publish"} <= {span.name for span in phases}
    assert {span.service for span in phases} == {"opsin-job"}
    in_order = sorted(phases, key=lambda span: span.began)
    assert all(a.ended <= b.began for a, b in pairwise(in_order))
    assert len({span.pid for span in spans}) == 3  # API, job worker, the job's process
    assert not any(span.failed for span in spans)


def test_what_no_client_asks_for_is_not_traced_at_a_ratio_of_0(
    traced: Installation, collector: Collector
) -> None:
    before = {span.trace_id for span in collector.spans}
    answer = httpx.get(f"{traced.url}/v1/models")
    unwanted = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}
    second = httpx.get(f"{traced.url}/v1/models", headers=unwanted)
    assert "traceparent" not in answer.headers
    assert second.headers["traceparent"].startswith(f"00-{'a' * 32}-")
    trace_id, headers = new_trace()
    httpx.get(f"{traced.url}/v1/models", headers=headers)
    collector.until(lambda: bool(collector.trace(trace_id)))
    assert {span.trace_id for span in collector.spans} - before == {trace_id}


def test_log_lines_of_all_processes_name_the_request(
    traced: Installation, collector: Collector
) -> None:
    trace_id, headers = new_trace()
    answer = httpx.post(
        f"{traced.url}/v1/classify?model=squeezenet",
        content=encoded(scene(), "PNG"),
        headers=headers | {"X-Request-Id": "the-one-to-find", "Prefer": "respond-async"},
    )
    with httpx.Client(base_url=traced.url, timeout=60) as client:
        wait_for_job(client, answer.json()["id"])
    expected = {"queue", "job classify", "run"}
    collector.until(lambda: expected <= {span.name for span in collector.trace(trace_id)})
    lines = lines_of(traced, "api", "the-one-to-find")
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["trace_id"] == trace_id
    (line,) = lines_of(traced, "worker", "the-one-to-find")
    assert line.items() >= {"event": "job_ended", "trace_id": trace_id, "kind": "classify"}.items()
    assert (line["model"], line["version"]) == ("squeezenet", "1")
    assert line["job"] == answer.json()["id"]


def lines_of(running: Installation, name: str, request_id: str) -> list[dict[str, object]]:
    text = (running.home / f"{name}.log").read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("request_id") == request_id]
