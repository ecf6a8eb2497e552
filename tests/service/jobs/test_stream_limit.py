"""How many streams may be open: the limits, and that every end releases a stream."""

import socket
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import structlog

from contracts.errors import QueueFull
from contracts.settings import Settings
from database.jobs.jobs import JobHistory
from database.jobs.queries import JobEntry
from service.jobs.stream_limit import MAX_STREAMS, MAX_STREAMS_PER_CLIENT, StreamLimiter
from tests.service.parts import FakeServices


def test_one_client_leaves_room_for_others() -> None:
    limiter = StreamLimiter(max_streams=3, max_per_client=2)
    with limiter.acquire("one"), limiter.acquire("one"):
        with pytest.raises(QueueFull, match="You follow 2"), limiter.acquire("one"):
            pass
        with (
            limiter.acquire("two"),
            pytest.raises(QueueFull, match="Too many"),
            limiter.acquire("three"),
        ):
            pass
    with suppress(ZeroDivisionError), limiter.acquire("one"):
        raise ZeroDivisionError
    with (
        limiter.acquire("one"),
        limiter.acquire("one"),
        limiter.acquire("two"),
    ):
        pass


def test_too_many_streams_are_refused_until_some_end(
    served: Callable[[Settings, FakeServices], AbstractContextManager[str]],
    settings: Settings,
    fakes: FakeServices,
) -> None:
    fakes.jobs.put("job_1")
    with served(settings, fakes) as url, ExitStack() as stack:
        port = int(url.rsplit(":", 1)[1])
        streams = [stack.enter_context(follow(port)) for _ in range(MAX_STREAMS_PER_CLIENT)]
        answer = httpx.get(f"{url}/v1/jobs/job_1/events")
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
        assert httpx.get(f"{url}/v1/jobs/job_1").status_code == 200
        for stream in streams:
            stream.close()
        fakes.jobs.put("job_1", state="cancelled")
        until = time.monotonic() + 60
        while httpx.get(f"{url}/v1/jobs/job_1/events").status_code != 200:
            assert time.monotonic() < until, "closed streams still count"
            time.sleep(0.1)


def follow(port: int) -> socket.socket:
    """A client whose stream has begun."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(b"GET /v1/jobs/job_1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.recv(4096).startswith(b"HTTP/1.1 200")
    return client


def test_one_client_may_not_open_all_streams() -> None:
    assert 1 < MAX_STREAMS_PER_CLIENT < MAX_STREAMS


def test_a_client_that_hangs_up_during_a_replay_leaves_no_traceback(
    served: Callable[[Settings, FakeServices], AbstractContextManager[str]],
    settings: Settings,
    fakes: FakeServices,
) -> None:
    entries = [JobEntry(n, "metrics", {"epoch": n}) for n in range(1, 2001)]
    history = JobHistory(fakes.jobs.put("job_1", state="succeeded"), entries)
    with (
        patch.object(fakes.jobs, "history", lambda *_: history),
        structlog.testing.capture_logs() as lines,
        served(settings, fakes) as url,
    ):
        for _ in range(40):
            with follow(int(url.rsplit(":", 1)[1])) as stream:
                stream.recv(1024)
        until = time.monotonic() + 30
        while len(requests_of(lines)) < 40 and time.monotonic() < until:
            time.sleep(0.01)
    assert len(requests_of(lines)) == 40
    assert [line for line in lines if line["log_level"] == "error"] == []


def requests_of(lines: Sequence[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in lines if line["event"] == "request"]
