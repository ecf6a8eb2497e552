"""The span of a request: its attributes, and what it never holds."""

import secrets
import socket
from collections.abc import Iterator

import httpx
import pytest

from contracts.settings import Settings
from contracts.tracing.spans import start_tracing, stop_tracing
from tests.collector import Collector, ReceivedSpan, collecting
from tests.service.parts import gray_png


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """This process is traced while it lasts."""
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    with collecting() as collector:
        start_tracing(Settings(_env_file=None, otlp_endpoint=collector.url), "api")
        yield collector
        stop_tracing()


def one(collector: Collector, trace_id: str) -> ReceivedSpan:
    """The request's own span."""
    collector.until(
        lambda: any(span.kind == 2 for span in collector.trace(trace_id)),
    )
    (span,) = [span for span in collector.trace(trace_id) if span.kind == 2]
    return span


def trace_of(answer: httpx.Response) -> str:
    return str(answer.headers["traceparent"].split("-")[1])


def test_a_request_without_a_trace_begins_one(collector: Collector, client: httpx.Client) -> None:
    answer = client.post("/v1/classify?top_k=1", content=gray_png())
    assert answer.status_code == 200, answer.text
    span = one(collector, trace_of(answer))
    assert (span.name, span.parent_id) == ("POST /v1/classify", "")
    assert span.span_id == answer.headers["traceparent"].split("-")[2]
    port = client.base_url.port
    assert (
        span.attributes.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/v1/classify",
            "http.response.status_code": 200,
            "url.path": "/v1/classify",
            "url.scheme": "http",
            "server.address": "127.0.0.1",
            "server.port": port,
            "network.protocol.version": "1.1",
            "opsin.request_id": answer.headers["x-request-id"],
        }.items()
    )
    assert (
        span.resource.items()
        >= {
            "service.name": "opsin-api",
            "service.namespace": "opsin",
            "service.version": "0.1.0",
        }.items()
    )
    assert "error.type" not in span.attributes
    # Its parts are children of it.
    decode = next(s for s in collector.trace(span.trace_id) if s.name == "decode")
    assert decode.parent_id == span.span_id
    assert span.began <= decode.began <= decode.ended <= span.ended


@pytest.mark.parametrize(
    ("method", "path", "status", "error", "route"),
    [
        ("GET", "/v1/jobs/job_1", 404, "job_not_found", "/v1/jobs/{job_id}"),
        ("GET", "/nothing", 404, "not_found", None),
        ("POST", "/v1/classify?secret=yes", 422, "validation_error", "/v1/classify"),
        ("PURGE", "/v1/models", 405, "method_not_allowed", None),
    ],
)
def test_a_refused_request_names_the_code(
    collector: Collector,
    client: httpx.Client,
    method: str,
    path: str,
    status: int,
    error: str,
    route: str | None,
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, error)
    span = one(collector, trace_of(answer))
    assert span.attributes["error.type"] == error
    assert span.attributes.get("http.route") == route
    verb = "HTTP" if method == "PURGE" else method
    assert span.name == (f"{verb} {route}" if route else verb)
    assert not span.failed, "a client's fault is no error of a server's span"
    assert "secret" not in str(vars(span))


def test_neither_queries_nor_addresses_nor_keys_are_recorded(
    collector: Collector, client: httpx.Client
) -> None:
    key = f"opsin_{'a1' * 6}_{'b2' * 24}"
    answer = client.get(
        f"/v1/models/{key}?model=private-query", headers={"User-Agent": "private-agent"}
    )
    span = one(collector, trace_of(answer))
    text = str(span.attributes)
    assert "private" not in text
    assert key not in text
    assert not {name for name in span.attributes if name.startswith(("client.", "network.peer"))}


def test_the_client_decides_and_probes_are_left_out(
    collector: Collector, client: httpx.Client
) -> None:
    wanted, unwanted = secrets.token_hex(16), secrets.token_hex(16)
    parent = secrets.token_hex(8)
    answer = client.get("/v1/models", headers={"traceparent": f"00-{unwanted}-{parent}-00"})
    assert answer.headers["traceparent"].endswith("-00")
    assert "traceparent" not in client.get("/healthz").headers
    client.get("/healthz", headers={"traceparent": f"00-{wanted}-{parent}-01"})
    span = one(collector, wanted)
    assert (span.name, span.parent_id) == ("GET /healthz", parent)
    assert collector.trace(unwanted) == []
    assert {span.trace_id for span in collector.spans} == {wanted}


def test_a_collector_that_hangs_delays_nobody(client: httpx.Client) -> None:
    """It takes the connection and never answers; each request is traced."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        start_tracing(Settings(_env_file=None, otlp_endpoint=url, trace_ratio=1.0), "api")
        try:
            answers = [client.post("/v1/classify", content=gray_png()) for _ in range(30)]
        finally:
            stop_tracing()
    assert {answer.status_code for answer in answers} == {200}
    assert all("traceparent" in answer.headers for answer in answers)
