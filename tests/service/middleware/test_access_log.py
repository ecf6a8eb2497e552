import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest
import structlog
from structlog.typing import EventDict

from contracts.logs import add_log_fields
from contracts.settings import Settings
from service.connections.line_limit import LineLimit
from tests.service.parts import FakeServices, gray_png

StartService = Callable[[Settings, FakeServices], AbstractContextManager[str]]


def logged(lines: list[EventDict], seconds: float = 30) -> EventDict:
    """The access line, which is written a moment after the response."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for line in list(lines):
            if line["event"] == "request":
                return line
        time.sleep(0.005)
    raise AssertionError(f"no access line in {lines}")


def of_status(lines: list[EventDict], status: int) -> list[EventDict]:
    return [line for line in list(lines) if line.get("status") == status]


def test_each_request_is_logged(client: httpx.Client) -> None:
    with structlog.testing.capture_logs(processors=[add_log_fields]) as lines:
        client.get("/v1/jobs/none?cursor=secret", headers={"X-Request-Id": "r1"})
        line = logged(lines)
    assert (line["method"], line["path"], line["status"]) == ("GET", "/v1/jobs/none", 404)
    assert line["request_id"] == "r1"
    assert line["duration_ms"] > 0
    assert "secret" not in str(line)


def test_a_healthy_probe_is_quiet(client: httpx.Client) -> None:
    with structlog.testing.capture_logs() as lines:
        client.get("/healthz")
        logged(lines)
    assert [line["log_level"] for line in lines] == ["debug"]


def test_an_unexpected_exception_is_logged_and_not_sent(
    client: httpx.Client, fakes: FakeServices
) -> None:
    fakes.dispatcher.breaks = RuntimeError("password at /srv/secret")
    with structlog.testing.capture_logs() as lines:
        answer = client.post(
            "/v1/classify", content=gray_png(), headers={"Content-Type": "image/png"}
        )
        logged(lines)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "secret" not in answer.text
    assert [line["event"] for line in lines] == ["unexpected exception", "request"]
    assert lines[0]["exc_info"]
    assert lines[1]["status"] == 500
    fakes.dispatcher.breaks = None
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/docs/start.js", "/docsx", "/nowhere"])
def test_every_response_has_security_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "geolocation=()" in headers["Permissions-Policy"]
    assert headers.get("Cache-Control") == (
        None if path in {"/docs", "/docs/start.js"} else "no-store"
    )
    assert "Server" not in headers


def test_a_long_path_is_cut(client: httpx.Client) -> None:
    with structlog.testing.capture_logs() as lines:
        client.get("/" + "a" * 2_000)
        line = logged(lines)
    assert line["path"] == "/" + "a" * 255 + "…"


def test_lines_of_clients_without_a_key_are_bounded(
    served: StartService, fakes: FakeServices
) -> None:
    key = "a-key-of-sixteen-or-more"
    with (
        served(Settings(_env_file=None, api_key=key), fakes) as url,
        structlog.testing.capture_logs() as lines,
        httpx.Client(base_url=url) as client,
    ):
        for _ in range(600):
            assert client.get("/v1/%01").status_code == 404
        for _ in range(20):
            assert client.get("/v1/presets", headers={"X-API-Key": key}).status_code == 200
        until = time.monotonic() + 30
        while len(of_status(lines, 200)) < 20 and time.monotonic() < until:
            time.sleep(0.005)  # the last line is written a moment after its response
    assert 200 <= len(of_status(lines, 404)) < 600
    assert len(of_status(lines, 200)) == 20


def test_lines_of_refusals_are_bounded(client: httpx.Client, fakes: FakeServices) -> None:
    fakes.decoder.room = 0
    with structlog.testing.capture_logs() as lines:
        for _ in range(600):
            assert client.post("/v1/classify", content=gray_png()).status_code == 429
    assert 190 <= len(of_status(lines, 429)) < 600


def test_the_lines_that_were_left_out_are_counted() -> None:
    now = 0.0
    limit = LineLimit(lambda: now)
    with structlog.testing.capture_logs() as lines:
        assert [limit.allows("10.0.0.1") for _ in range(250)].count(True) == 200
        assert limit.allows("10.0.0.2")
        now = 20.0
        assert [limit.allows("10.0.0.1") for _ in range(250)].count(True) == 200
        allowed = sum(limit.allows(f"10.1.{at // 250}.{at % 250}") for at in range(9000))
    assert allowed <= 2000
    counts = [line["count"] for line in lines if line["event"] == "lines_left_out"]
    assert counts == [50]
