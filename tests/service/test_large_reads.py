"""Reads of megabytes: bounded by client, in turn, and only for who still listens."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from contracts.errors import QueueFull
from contracts.jobs import Progress
from contracts.settings import Settings
from database.jobs.queries import StoredJob
from database.paging import Reserve
from service.inference.fair_pool import CALLER, Caller
from service.large_reads import LargeReads
from tests.service.parts import FakeServices

Served = Callable[[Settings, FakeServices], AbstractContextManager[str]]
LARGE = {"text": "é" * 2_000_000, "number": 0.5}  # 12 MB of JSON


def finished(fakes: FakeServices, job_id: str, result: dict[str, Any]) -> None:
    done = Progress(fraction=1)
    fakes.jobs.put(job_id, state="succeeded", attempt=1, progress=done, result=result)


def test_a_large_response_waits_for_others_of_its_client_to_be_sent() -> None:
    reads = LargeReads(most=100, share=50)
    reads.hold("one", 60)  # a single one may be as large as it likes
    with pytest.raises(QueueFull, match="large responses"):
        reads.hold("one", 1)
    reads.hold("two", 40)
    with pytest.raises(QueueFull, match="large responses"):
        reads.hold("three", 1)
    reads.release("one", 60)
    reads.hold("one", 50)


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/job_1"])
def test_a_large_result_is_sent_as_it_is_stored(
    client: httpx.Client, fakes: FakeServices, path: str
) -> None:
    finished(fakes, "job_1", LARGE)
    answer = client.get(path)
    body = answer.json()
    job = body if path.endswith("job_1") else body["items"][0]
    assert job["result"] == LARGE
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert json.dumps(LARGE) in answer.text, "the stored JSON is not parsed and written again"


def test_responses_that_nobody_reads_are_refused_until_they_are_gone(
    served: Served, settings: Settings, fakes: FakeServices
) -> None:
    """Each client that asks and does not read would keep megabytes in memory."""
    finished(fakes, "job_1", LARGE)
    fakes.jobs.put("job_2")
    with served(settings, fakes) as url:
        clients = [ask(url, "/v1/jobs") for _ in range(2)]
        for one in clients:
            assert one.recv(12) == b"HTTP/1.1 200"
        refused = httpx.get(f"{url}/v1/jobs/job_1")
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert int(refused.headers["Retry-After"]) >= 1
        assert httpx.get(f"{url}/v1/jobs/job_2").status_code == 200, "a small one is not large"
        for one in clients:
            one.close()
        until = time.monotonic() + 60
        while httpx.get(f"{url}/v1/jobs/job_1").status_code != 200:
            assert time.monotonic() < until, "what was given up still counts"
            time.sleep(0.1)


def test_a_read_does_not_begin_once_its_client_has_gone(
    served: Served, settings: Settings, fakes: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go_on = list[str](), threading.Event()
    stored = fakes.jobs.stored

    def slow(job_id: str, reserve: Reserve) -> StoredJob:
        read.append(job_id)
        assert go_on.wait(60)
        return stored(job_id, reserve)

    monkeypatch.setattr(fakes.jobs, "stored", slow)
    fakes.jobs.put("job_1")
    with served(settings, fakes) as url:
        clients = [ask(url, "/v1/jobs/job_1") for _ in range(20)]
        until = time.monotonic() + 60
        while len(read) < 2:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.3)  # the others wait for the two threads
        for one in clients:
            one.close()
        time.sleep(0.3)
        go_on.set()
        assert httpx.get(f"{url}/v1/jobs/job_1", timeout=60).status_code == 200
    assert len(read) == 3


def test_others_do_not_wait_for_one_clients_reads() -> None:
    ended = list[str]()

    async def read(client: str, number: int) -> None:
        CALLER.set(Caller(client, number))

        def work() -> None:
            time.sleep(0.05)
            ended.append(client)

        await reads.pool.run(work, deadline_seconds=30)

    async def body() -> None:
        many = [asyncio.create_task(read("one", number)) for number in range(30)]
        await asyncio.sleep(0.01)
        await asyncio.gather(read("two", 100), *many)

    reads = LargeReads()
    asyncio.run(body())
    reads.close()
    assert ended.index("two") <= 4, "it waited for what ran, and for nothing else"


def ask(url: str, path: str) -> socket.socket:
    """A client that has sent its request and reads no more than it is told to."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client
