"""Collectors that refuse, hang, dribble or answer with errors: work goes on, memory is bounded."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import structlog

from contracts.settings import Settings
from contracts.tracing import exporter
from contracts.tracing.config import shown_endpoint
from contracts.tracing.spans import begin_request, span, start_tracing, stop_tracing, within

Answer = Callable[[socket.socket, threading.Event], None]
REQUESTS = 3000  # each with two spans


def hang(_connection: socket.socket, ended: threading.Event) -> None:
    ended.wait()


def dribble(connection: socket.socket, ended: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not ended.wait(0.2):
        connection.sendall(b".")


def fail(connection: socket.socket, _ended: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nRetry-After: 3600\r\n\r\n")


def close(_connection: socket.socket, _ended: threading.Event) -> None:
    """Without an answer."""


@contextmanager
def collector(answer: Answer) -> Iterator[str]:
    """A server that takes what is sent and does as `answer` says; yields its address."""
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                answer(connection, ended)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
    for thread in (accepting, *threads):
        thread.join(60)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("answer", [hang, dribble, fail, close], ids=lambda one: one.__name__)
def test_a_collector_that_does_not_take_spans_costs_only_them(answer: Answer) -> None:
    with collector(answer) as url, structlog.testing.capture_logs() as lines:
        start_tracing(Settings(_env_file=None, otlp_endpoint=url, trace_ratio=1.0), "api")
        try:
            for _ in range(REQUESTS):
                part = begin_request("GET /x", None, is_probe=False)
                assert part is not None
                with within(part), span("decode"):
                    pass
            assert _waiting() <= exporter._MAX_WAITING
        finally:
            stop_tracing()
    assert {line["event"] for line in lines} <= {"traced", "spans_not_sent"}
    # The sender of an earlier test may still wait for its collector, and then says so.
    of_this = [line for line in lines if line.get("endpoint", "").startswith(url)]
    assert sum(line["event"] == "spans_not_sent" for line in of_this) <= 1


def _waiting() -> int:
    """How many spans are held to be sent."""
    from contracts.tracing import spans

    assert spans._exporter is not None
    (processor,) = spans._exporter._provider._active_span_processor._span_processors
    return len(processor._batch_processor._queue)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("endpoint", "shown"),
    [
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
        ("https://me:secret@c:4318/v1/traces", "https://c:4318/v1/traces"),
        ("https://me:se@cret@c/x?api-key=secret#y", "https://c/x"),
        ("me:secret@collector:4318", "collector:4318"),
    ],
)
def test_an_address_is_shown_without_its_secrets(endpoint: str, shown: str) -> None:
    assert shown_endpoint(endpoint) == shown


@pytest.mark.parametrize(
    "variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
)
@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_no_secret_of_the_collector_is_logged(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    monkeypatch.setenv(variable, f"{scheme}://me:secret@127.0.0.1:9/x?token=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
    with structlog.testing.capture_logs() as lines:
        start_tracing(Settings(_env_file=None, trace_ratio=1.0), "api")
        part = begin_request("x", None, is_probe=False)
        if part is not None:
            part.end()
        stop_tracing()
    assert lines
    assert "secret" not in str(lines)
