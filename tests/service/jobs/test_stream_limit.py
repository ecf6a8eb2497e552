"""How many may follow jobs at a time: the bounds, and that every end gives the place back."""

import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress

import httpx
import pytest

from contracts.errors import QueueFull
from contracts.settings import Settings
from service.jobs.stream_limit import MOST, MOST_OF_ONE, Streams
from tests.service.parts import House


def test_one_caller_leaves_room_for_others() -> None:
    streams = Streams(most=3, most_of_one=2)
    with streams.taken("one"), streams.taken("one"):
        with pytest.raises(QueueFull, match="You follow 2"), streams.taken("one"):
            pass
        with (
            streams.taken("two"),
            pytest.raises(QueueFull, match="Too many"),
            streams.taken("three"),
        ):
            pass
    with suppress(ZeroDivisionError), streams.taken("one"):
        raise ZeroDivisionError
    with streams.taken("one"), streams.taken("one"), streams.taken("two"):
        pass


def test_more_streams_than_one_may_have_are_refused_until_some_end(
    served: Callable[[Settings, House], AbstractContextManager[str]],
    settings: Settings,
    house: House,
) -> None:
    house.shelf.put("job_1")
    with served(settings, house) as url, ExitStack() as stack:
        port = int(url.rsplit(":", 1)[1])
        streams = [stack.enter_context(follow(port)) for _ in range(MOST_OF_ONE)]
        answer = httpx.get(f"{url}/v1/jobs/job_1/events")
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1
        assert httpx.get(f"{url}/v1/jobs/job_1").status_code == 200
        for stream in streams:
            stream.close()
        house.shelf.put("job_1", state="cancelled")
        until = time.monotonic() + 20
        while httpx.get(f"{url}/v1/jobs/job_1/events").status_code != 200:
            assert time.monotonic() < until, "who hung up still has a place"
            time.sleep(0.1)


def follow(port: int) -> socket.socket:
    """A client whose stream has begun."""
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(b"GET /v1/jobs/job_1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert client.recv(4096).startswith(b"HTTP/1.1 200")
    return client


def test_one_is_a_part_of_all() -> None:
    assert 1 < MOST_OF_ONE < MOST
