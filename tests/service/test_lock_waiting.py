"""Requests that wait for a lock keep no thread that others need."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from fastapi.concurrency import run_in_threadpool

from contracts.errors import QueueFull
from database.engine import open_engine
from database.tables import Record
from models.locks import LockHeldError, locked
from service.inference.fair_pool import CALLER, Caller
from service.lock_waiting import LockWaiting
from tests.models.datasets.packing import tree, zipped
from tests.service.parts import FakeServices, datasets_in
from tests.service.registry.test_version_routes import publish

T = TypeVar("T")
TOGETHER = 200
PROMPT = (
    20.0  # seconds for another request; without a thread it would wait as long as the lock is held
)

Requests = list[tuple[str, str, dict[str, object] | None]]


@pytest.fixture
def fakes(tmp_path: Path) -> FakeServices:
    fakes = FakeServices(datasets=datasets_in(tmp_path))
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    Record.metadata.create_all(engine)
    engine.dispose()
    return fakes


def dataset(client: httpx.Client) -> str:
    archive = {"archive": ("pets.zip", zipped(tree({"cat": 8, "dog": 6})))}
    made: str = client.post("/v1/datasets", files=archive).json()["id"]
    return made


def lock_of(fakes: FakeServices, dataset_id: str) -> Path:
    return fakes.datasets.store._root / ".locks" / f"{dataset_id}.lock"


async def _all_while_held(
    client: httpx.Client, requests: Requests, lock: Path, other: str
) -> tuple[list[tuple[int, dict[str, object]]], list[float]]:
    """Send everything while the lock is held, then free it; time another request in both.

    Over plain sockets: a real client of 200 connections would itself be what takes long.
    """
    with locked(lock):
        sent = [asyncio.create_task(_send(client.base_url, *request)) for request in requests]
        await _settled(sent)
        seconds = [await asyncio.to_thread(_timed, client, other)]
    seconds.append(await asyncio.to_thread(_timed, client, other))
    return await asyncio.gather(*sent), seconds


async def _send(
    url: httpx.URL, method: str, path: str, body: dict[str, object] | None
) -> tuple[int, dict[str, object]]:
    reader, writer = await asyncio.open_connection(url.host, url.port)
    content = json.dumps(body).encode() if body else b""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {url.host}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    status, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(status.split()[1]), json.loads(answer) if answer else {}


async def _settled(sent: Sequence["asyncio.Task[object]"]) -> None:
    """Until the service has received all: those that it refuses at once are answered."""
    before, deadline = -1, time.monotonic() + 60
    while before != (now := sum(task.done() for task in sent)) or (
        not now and len(sent) == TOGETHER and time.monotonic() < deadline
    ):
        before = now
        await asyncio.sleep(1 if now else 2)


def _timed(client: httpx.Client, path: str) -> float:
    began = time.monotonic()
    assert client.get(path).status_code == 200
    return time.monotonic() - began


def test_two_hundred_trainings_at_once_do_not_stop_the_service(
    client: httpx.Client, fakes: FakeServices
) -> None:
    dataset_id = dataset(client)
    body: dict[str, object] = {"dataset_id": dataset_id, "model": "pets", "network": "squeezenet"}
    body["promote"] = "never"
    answers, seconds = asyncio.run(
        _all_while_held(
            client,
            [("POST", "/v1/trainings", body)] * TOGETHER,
            lock_of(fakes, dataset_id),
            f"/v1/datasets/{dataset_id}",
        )
    )
    assert max(seconds) < PROMPT
    counts = Counter(status for status, _ in answers)
    assert set(counts) == {202, 429}
    assert counts[202] == len(fakes.jobs.worked) >= 40
    assert {body["code"] for status, body in answers if status == 429} == {"queue_full"}


@pytest.mark.parametrize("what", ["dataset", "alias", "dropped alias", "version"])
def test_changes_that_wait_for_a_longer_one_do_not_stop_the_service(
    client: httpx.Client, fakes: FakeServices, what: str
) -> None:
    dataset_id = dataset(client)
    for _ in range(2):
        publish(fakes.store)
    fakes.store.promote("squeezenet", 1)
    fakes.store.promote("squeezenet", 1, "canary")
    model = "/v1/models/squeezenet"
    request: tuple[str, str, dict[str, object] | None] = {
        "dataset": ("DELETE", f"/v1/datasets/{dataset_id}", None),
        "alias": ("POST", f"{model}/aliases", {"alias": "champion", "version": 1}),
        "dropped alias": ("DELETE", f"{model}/aliases/canary", None),
        "version": ("DELETE", f"{model}/versions/2", None),
    }[what]
    model_lock = fakes.store._root / ".locks" / "model-squeezenet.lock"
    lock = lock_of(fakes, dataset_id) if what == "dataset" else model_lock
    answers, seconds = asyncio.run(_all_while_held(client, [request] * 60, lock, "/v1/datasets"))
    assert max(seconds) < PROMPT
    statuses = {status for status, _ in answers}
    assert statuses & {200, 204}
    assert max(statuses) < 500


def test_waiters_of_many_locks_leave_the_threads_to_others(tmp_path: Path) -> None:
    waiting = LockWaiting()

    def change(name: str, *, timeout: float) -> str:
        with locked(tmp_path / name, timeout=timeout):
            return name

    async def run() -> list[str]:
        names = [str(number) for number in range(60)]
        held = [locked(tmp_path / name) for name in names]
        for lock in held:
            lock.__enter__()
        tasks = [asyncio.create_task(waiting.run(name, change, name)) for name in names]
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await run_in_threadpool(lambda: None)
        assert time.monotonic() - began < PROMPT
        for lock in held:
            lock.__exit__(None, None, None)
        return await asyncio.gather(*tasks)

    assert len(asyncio.run(run())) == 60


def test_the_wait_ends_and_the_number_of_waiters_is_bounded(tmp_path: Path) -> None:
    waiting = LockWaiting(seconds=0.3)

    def change(*, timeout: float) -> None:
        with locked(tmp_path / "lock", timeout=timeout):
            raise AssertionError("the lock is held")

    async def run() -> list[object]:
        return list(
            await asyncio.gather(
                *(waiting.run("lock", change) for _ in range(100)), return_exceptions=True
            )
        )

    with locked(tmp_path / "lock"):
        counts = Counter(type(outcome) for outcome in asyncio.run(run()))
    assert counts == {LockHeldError: 64, QueueFull: 36}
    assert not waiting._turns


def by(client: str, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
    """A task for a request of a client."""
    CALLER.set(Caller(client, 0))
    return asyncio.create_task(work)


def test_clients_take_turns_at_a_lock(tmp_path: Path) -> None:
    waiting, order = LockWaiting(), list[str]()

    def change(client: str, *, timeout: float) -> None:
        with locked(tmp_path / "lock", timeout=timeout):
            order.append(client)

    async def run() -> None:
        with locked(tmp_path / "lock"):
            many = [by("many", waiting.run("lock", change, "many")) for _ in range(60)]
            await asyncio.sleep(0.05)
            one = by("one", waiting.run("lock", change, "one"))
            gone = by("gone", waiting.run("lock", change, "gone"))
            await asyncio.sleep(0.05)
            gone.cancel()
        await asyncio.gather(*many, one)

    asyncio.run(run())
    assert len(order) == 61
    assert order.index("one") <= 2
    assert not waiting._turns


def test_one_client_leaves_places_for_others(tmp_path: Path) -> None:
    waiting = LockWaiting(seconds=1.0)

    def change(name: str, *, timeout: float) -> None:
        with locked(tmp_path / name, timeout=timeout):
            raise AssertionError("the lock is held")

    async def run() -> list[object]:
        locks = [locked(tmp_path / str(number)) for number in range(300)]
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            many = [by("many", waiting.run(str(n), change, str(n))) for n in range(300)]
            await asyncio.sleep(0)
            others = [by("other", waiting.run("0", change, "0")) for _ in range(9)]
            return list(await asyncio.gather(*many, *others, return_exceptions=True))

    outcomes = [type(outcome) for outcome in asyncio.run(run())]
    assert Counter(outcomes[:300]) == {LockHeldError: 256, QueueFull: 44}
    assert Counter(outcomes[300:]) == {LockHeldError: 9}


def test_clients_take_turns_at_the_threads_of_blocking_work() -> None:
    waiting, order = LockWaiting(), list[str]()

    def work(client: str) -> None:
        time.sleep(0.01)
        order.append(client)

    async def run() -> None:
        many = [by("many", waiting.run_blocking(work, "many")) for _ in range(60)]
        await asyncio.sleep(0.05)
        await asyncio.gather(*many, by("one", waiting.run_blocking(work, "one")))

    asyncio.run(run())
    assert order.index("one") < 20
    waiting.close()


def test_a_held_lock_is_free_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def open_lock(*, timeout: float) -> object:
        return locked(path, timeout=timeout)

    async def run(fail: Callable[[], None]) -> None:
        async with LockWaiting().hold("lock", open_lock):  # type: ignore[arg-type]
            with pytest.raises(LockHeldError), locked(path, timeout=0):
                pass
            fail()

    def broken() -> None:
        raise ZeroDivisionError

    asyncio.run(run(lambda: None))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(broken))
    with locked(path, timeout=0):
        pass


def test_blocking_work_has_threads_of_its_own() -> None:
    waiting = LockWaiting()

    async def run() -> float:
        slow = [asyncio.create_task(waiting.run_blocking(time.sleep, 0.05)) for _ in range(60)]
        await asyncio.sleep(0.01)
        began = time.monotonic()
        await run_in_threadpool(lambda: None)
        elapsed = time.monotonic() - began
        await asyncio.gather(*slow)
        return elapsed

    assert asyncio.run(run()) < PROMPT
