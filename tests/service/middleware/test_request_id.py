import httpx
import pytest
import structlog

from contracts.logs import add_log_fields
from tests.service.middleware.test_access_log import logged


@pytest.mark.parametrize("path", ["/healthz", "/v1/jobs/none", "/nowhere"])
def test_an_id_is_taken_over_and_echoed(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"X-Request-Id": "abc-1"})
    assert answer.headers["X-Request-Id"] == "abc-1"
    if answer.is_error:
        assert answer.json()["request_id"] == "abc-1"


@pytest.mark.parametrize("sent", ["", "a b", "a" * 129, "a\tb", "k\xe4se"])
def test_an_unfit_id_is_replaced(client: httpx.Client, sent: str) -> None:
    headers = {"X-Request-Id": sent.encode("latin-1")}
    made = client.get("/healthz", headers=headers).headers["X-Request-Id"]
    assert len(made) == 32
    assert made.isalnum()


def test_ids_are_made_anew(client: httpx.Client) -> None:
    made = {client.get("/healthz").headers["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("sent", [f"00-{TRACE}-00f067aa0ba902b7-01", f"01-{TRACE}-{'1' * 16}-00-x"])
def test_a_trace_is_continued(steady: httpx.Client, sent: str) -> None:
    answer = steady.get("/healthz", headers={"traceparent": sent})
    version, trace, span, flags = answer.headers["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, sent.split("-")[3])
    assert len(span) == 16
    assert span not in sent


@pytest.mark.parametrize(
    "sent",
    [
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-00f067aa0ba902b7-01-x",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        "nonsense",
    ],
)
def test_what_is_no_trace_is_ignored(steady: httpx.Client, sent: str) -> None:
    assert "traceparent" not in steady.get("/healthz", headers={"traceparent": sent}).headers


def test_log_lines_name_the_trace(client: httpx.Client) -> None:
    with structlog.testing.capture_logs(processors=[add_log_fields]) as lines:
        answer = client.get(
            "/v1/jobs/none", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        )
        line = logged(lines)
    assert line["trace_id"] == TRACE
    assert line["span_id"] == answer.headers["traceparent"].split("-")[2]
