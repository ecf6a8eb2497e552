import time

import httpx
import pytest
import structlog
from structlog.typing import EventDict

from tests.service.parts import FakeServices, gray_png


def logged(lines: list[EventDict], seconds: float = 5) -> EventDict:
    """The access line, which is written a moment after the response."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for line in list(lines):
            if line["event"] == "request":
                return line
        time.sleep(0.005)
    raise AssertionError(f"no access line in {lines}")


def test_each_request_is_logged(client: httpx.Client) -> None:
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as lines:
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


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/nowhere"])
def test_every_response_has_security_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "geolocation=()" in headers["Permissions-Policy"]
    assert headers.get("Cache-Control") == (None if path.startswith("/docs") else "no-store")
    assert "Server" not in headers
