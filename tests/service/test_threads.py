"""Nobody takes the threads of others: neither changes those of reads, nor a client all."""

import asyncio
import threading
from contextlib import suppress

import pytest

from service.inference.fair_pool import CALLER, Caller, part_of
from service.shared_check import SharedCheck
from service.threads import _CHANGING, _READING, CHANGES, run_by_size, run_in_threadpool


def test_two_hundred_changes_keep_nobody_waiting_who_reads() -> None:
    ready = threading.Event()

    async def change() -> bool:
        CHANGES.set(True)
        return await run_in_threadpool(ready.wait, 30)

    async def use() -> None:
        changes = [asyncio.create_task(change()) for _ in range(200)]
        await asyncio.sleep(0.1)
        assert await asyncio.wait_for(run_in_threadpool(int, "7"), 20) == 7
        assert not any(task.done() for task in changes)
        ready.set()
        assert await asyncio.gather(*changes) == [True] * 200

    asyncio.run(use())


@pytest.mark.parametrize("changes", [True, False])
def test_a_check_for_changes_is_the_services_own_read_whoever_asks_for_it(changes: bool) -> None:
    ready = threading.Event()

    async def change() -> None:
        CALLER.set(Caller("greedy", 1))
        CHANGES.set(changes)
        await run_in_threadpool(ready.wait, 30)

    async def announce(check: SharedCheck) -> None:
        CALLER.set(Caller("greedy", 2))
        CHANGES.set(changes)
        await check.refresh()  # it holds the lock that those who read wait for
        assert CHANGES.get() == changes, "of this request only the check is a read"
        assert CALLER.get().client == "greedy"

    async def use() -> None:
        check = SharedCheck(lambda: run_in_threadpool(int, "7"))
        changes = [asyncio.create_task(change()) for _ in range(200)]
        await asyncio.sleep(0.1)
        try:
            await asyncio.wait_for(asyncio.create_task(announce(check)), 20)
            await asyncio.wait_for(check.refresh(), 20)
        finally:
            ready.set()
            await asyncio.gather(*changes)

    asyncio.run(use())


def test_what_is_computed_waits_for_no_change() -> None:
    ready = threading.Event()

    async def change() -> None:
        CHANGES.set(True)
        await run_in_threadpool(ready.wait, 30)

    async def assemble() -> int:
        CHANGES.set(True)  # as every POST does
        return await run_by_size(1_000_000, int, "7")

    async def use() -> None:
        changes = [asyncio.create_task(change()) for _ in range(200)]
        await asyncio.sleep(0.1)
        try:
            assert await asyncio.wait_for(asyncio.create_task(assemble()), 20) == 7
        finally:
            ready.set()
            await asyncio.gather(*changes)

    asyncio.run(use())


@pytest.mark.parametrize("changes", [True, False])
def test_one_client_leaves_threads_for_others(changes: bool) -> None:
    ready = threading.Event()

    async def change(client: str) -> bool:
        CALLER.set(Caller(client, 1))
        CHANGES.set(changes)
        return await run_in_threadpool(bool if client == "other" else ready.wait, 30)

    async def use() -> None:
        clients = [part_of("greedy", person) for person in "abcdefgh"] * 25
        greedy = [asyncio.create_task(change(client)) for client in clients]
        await asyncio.sleep(0.1)
        assert await asyncio.wait_for(asyncio.create_task(change("other")), 20)
        greedy[-1].cancel()  # one that waits
        ready.set()
        assert await asyncio.gather(*greedy[:-1]) == [True] * 199
        assert not (_CHANGING if changes else _READING).shares()

    asyncio.run(use())


@pytest.mark.parametrize("changes", [True, False])
def test_a_client_that_hangs_up_again_and_again_has_no_more_threads(changes: bool) -> None:
    ready, running = threading.Event(), list[int]()

    def call(number: int) -> None:
        running.append(number)
        ready.wait(30)

    async def change(number: int) -> None:
        CALLER.set(Caller("greedy", number))
        CHANGES.set(changes)
        with suppress(TimeoutError):
            await asyncio.wait_for(run_in_threadpool(call, number), 0.02)

    async def use() -> None:
        threads = _CHANGING if changes else _READING
        for number in range(40):
            await change(number)
        assert len(running) == threads.share
        ready.set()
        await asyncio.wait_for(asyncio.create_task(change(100)), 20)
        assert running[-1] == 100
        await asyncio.sleep(0.1)
        assert not threads.shares()

    asyncio.run(use())
    assert len(running) < 40, "whose clients have left before their turn"
