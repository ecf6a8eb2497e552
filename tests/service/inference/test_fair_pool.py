"""Threads shared fairly: nobody waits for another client's many or large images."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from contracts.errors import DeadlineExceeded, Draining, QueueFull
from service.inference.fair_pool import CALLER, Caller, FairPool
from service.inference.pixel_budget import PixelBudget


def pool_of(threads: int = 1, places: int = 40, **options: PixelBudget) -> FairPool:
    return FairPool(threads, name="test", places=places, share=places // 2, **options)


async def work_of(
    pool: FairPool, client: str, request: int, work: Callable[[], object], *, pixels: int = 0
) -> object:
    CALLER.set(Caller(client, request))
    return await pool.run(work, deadline_seconds=20, pixels=pixels)


def run(use: Callable[[], Awaitable[None]]) -> None:
    async def body() -> None:
        await use()

    asyncio.run(body())


def test_a_client_with_much_work_keeps_nobody_waiting() -> None:
    order: list[str] = []
    all_wait = threading.Event()

    def costly() -> None:
        assert all_wait.wait(30)
        time.sleep(0.05)
        order.append("many")

    async def use() -> None:
        pool = pool_of()
        tasks = [asyncio.create_task(work_of(pool, "a", 1, costly)) for _ in range(12)]
        await asyncio.sleep(0)
        for client, request, name in (("b", 2, "other client"), ("a", 3, "other request")):
            work = partial(order.append, name)
            tasks.append(asyncio.create_task(work_of(pool, client, request, work)))
        await asyncio.sleep(0)
        all_wait.set()
        await asyncio.gather(*tasks)

    run(use)
    assert order.index("other client") <= 1, "it waited for what ran, and for nothing else"
    assert order.index("other request") <= 5, "requests of one client take turns"
    assert len(order) == 14


def test_a_client_gets_the_threads_that_others_do_not_use() -> None:
    """Its earlier use is not held against it once the others have nothing left to do."""

    async def use() -> None:
        pool = pool_of()
        await work_of(pool, "a", 1, lambda: time.sleep(0.1))
        await asyncio.gather(*(work_of(pool, name, 2, lambda: time.sleep(0.01)) for name in "abab"))

    run(use)


def test_the_threads_go_on_while_the_event_loop_has_no_time() -> None:
    """Under load it is busy for longer than an image takes."""
    ready = threading.Event()
    done: list[int] = []

    async def use() -> None:
        pool = pool_of(2)
        works = [*(partial(done.append, number) for number in range(11)), ready.set]
        tasks = [asyncio.create_task(work_of(pool, "a", 1, work)) for work in works]
        await asyncio.sleep(0)
        assert ready.wait(30), "in the loop's thread"
        await asyncio.gather(*tasks)

    run(use)
    assert sorted(done) == list(range(11))


def test_a_client_has_a_share_of_the_places() -> None:
    ready = threading.Event()

    async def use() -> None:
        pool = pool_of(places=4)
        tasks = [asyncio.create_task(work_of(pool, "a", 1, ready.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await asyncio.create_task(work_of(pool, "a", 2, ready.wait))
        tasks += [asyncio.create_task(work_of(pool, "b", 1, ready.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await asyncio.create_task(work_of(pool, "c", 1, ready.wait))
        ready.set()
        await asyncio.gather(*tasks)
        await work_of(pool, "c", 1, ready.wait)

    run(use)


def test_the_pixels_of_what_runs_are_bounded_over_all_pools() -> None:
    running: list[int] = []
    most = 0
    lock = threading.Lock()

    def measured(pixels: int) -> None:
        nonlocal most
        with lock:
            running.append(pixels)
            most = max(most, sum(running))
        time.sleep(0.02)
        with lock:
            running.remove(pixels)

    async def use() -> None:
        budget = PixelBudget(100)
        pools = [pool_of(4, budget=budget), pool_of(4, budget=budget)]
        sizes = [40, 60, 30, 250, 100, 10, 50, 90]
        await asyncio.gather(
            *(
                work_of(pools[at % 2], f"{at % 3}", at, partial(measured, size), pixels=size)
                for at, size in enumerate(sizes)
            )
        )

    run(use)
    assert most == 250, "the one that exceeds the budget ran alone"


def test_what_waits_behind_work_that_is_given_up_starts_at_once() -> None:
    ready = threading.Event()

    async def use() -> None:
        pool = pool_of(3, budget=PixelBudget(100))
        running = asyncio.create_task(work_of(pool, "a", 1, partial(ready.wait, 60), pixels=80))
        await asyncio.sleep(0.05)
        given_up = asyncio.create_task(work_of(pool, "b", 2, int, pixels=90))
        await asyncio.sleep(0.05)
        behind = asyncio.create_task(work_of(pool, "b", 3, int, pixels=10))
        await asyncio.sleep(0.05)
        given_up.cancel()
        try:
            assert await asyncio.wait_for(behind, 30) == 0
        finally:
            ready.set()
        await running

    run(use)


def test_a_thread_waits_for_the_budget_too() -> None:
    budget = PixelBudget(100)
    with budget.held(80, seconds=30):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded), budget.held(30, seconds=0.05):
            raise AssertionError("there is no room")
        assert time.monotonic() - began >= 0.05
        with budget.held(20, seconds=30):
            pass
    with budget.held(500, seconds=30):
        pass


def test_work_given_up_before_its_turn_never_starts() -> None:
    ready, started = threading.Event(), threading.Event()

    async def use() -> None:
        pool = pool_of()
        first = asyncio.create_task(work_of(pool, "a", 1, ready.wait))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await pool.run(started.set, deadline_seconds=0.05)
        cancelled = asyncio.create_task(work_of(pool, "b", 1, started.set))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        ready.set()
        await first
        await work_of(pool, "b", 2, lambda: None)
        assert not started.is_set()

    run(use)


def test_a_closed_pool_drops_what_waits() -> None:
    ready = threading.Event()

    async def use() -> None:
        pool = pool_of()
        first = asyncio.create_task(work_of(pool, "a", 1, ready.wait))
        waiting = asyncio.create_task(work_of(pool, "a", 1, ready.wait))
        await asyncio.sleep(0)
        pool.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(Draining):
            await pool.run(ready.wait, deadline_seconds=1)
        ready.set()
        assert await first is True

    run(use)


class Image:
    """Large in reality."""


@pytest.mark.parametrize("ending", ["done", "failed", "given up"])
def test_an_image_is_freed_without_the_garbage_collector(ending: str) -> None:
    """Which would come late: hundreds of images may be sent before it has enough to do."""
    ready = threading.Event()

    def work(image: Image) -> Image:
        ready.wait(30)
        if ending == "failed":
            raise ValueError
        return image

    async def use() -> None:
        pool, image = pool_of(), Image()
        freed = weakref.ref(image)
        task = asyncio.create_task(work_of(pool, "a", 1, partial(work, image)))
        await asyncio.sleep(0.01)
        if ending == "given up":
            task.cancel()
        ready.set()
        await asyncio.gather(task, return_exceptions=True)
        del image, task
        await pool.run(int, deadline_seconds=30)  # so that the thread has let go of the first one
        assert freed() is None

    gc.disable()
    try:
        run(use)
    finally:
        gc.enable()
