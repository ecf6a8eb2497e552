import asyncio
import threading
import time
from itertools import pairwise

import pytest

from contracts.errors import Unavailable
from service.shared_reads import SharedReads


def test_one_read_answers_all_who_asked_before_it_began() -> None:
    calls, began, go_on = list[int](), threading.Event(), threading.Event()

    def read() -> int:
        calls.append(len(calls))
        began.set()
        assert go_on.wait(30)
        return calls[-1]

    async def use() -> None:
        reads = SharedReads()
        first = asyncio.create_task(reads.run("keys", read))
        assert await asyncio.to_thread(began.wait, 30)
        others = [asyncio.create_task(reads.run("keys", read)) for _ in range(500)]
        await asyncio.sleep(0)
        go_on.set()
        assert await first == 0
        assert set(await asyncio.gather(*others)) == {1}, "the first may have read too early"
        assert len(calls) == 2

    asyncio.run(use())


def test_an_error_is_shared_and_forgotten() -> None:
    calls, go_on = list[int](), threading.Event()

    def fail() -> int:
        calls.append(0)
        assert go_on.wait(30)
        raise Unavailable("The database does not answer.")

    async def use() -> None:
        reads = SharedReads()
        tasks = [asyncio.create_task(reads.run("keys", fail)) for _ in range(100)]
        await asyncio.sleep(0.1)
        go_on.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in errors} == {Unavailable}
        assert len(calls) <= 2
        assert await reads.run("keys", lambda: 7) == 7

    asyncio.run(use())


def test_who_hangs_up_keeps_nobody_waiting() -> None:
    async def use() -> None:
        reads, go_on = SharedReads(), threading.Event()
        holder = asyncio.create_task(reads.run("keys", lambda: go_on.wait(30)))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(reads.run("keys", lambda: True))
        await asyncio.sleep(0)
        holder.cancel()
        assert await asyncio.wait_for(waiting, 20)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await holder

    asyncio.run(use())


def test_reads_take_their_share_of_the_time_at_most() -> None:
    async def use() -> None:
        reads = SharedReads()
        began = [
            await reads.run("system", lambda: (time.monotonic(), time.sleep(0.02))[0], share=0.1)
            for _ in range(3)
        ]
        for earlier, later in pairwise(began):
            assert later - earlier >= 0.19

    asyncio.run(use())


def test_a_read_that_waited_long_does_not_make_the_next_wait_as_long() -> None:
    async def use() -> None:
        reads = SharedReads()
        await reads.run("metrics", lambda: time.sleep(0.5), share=0.01)
        began = time.monotonic()
        await reads.run("metrics", lambda: None, share=0.01)
        assert time.monotonic() - began < 20, "and not fifty seconds"

    asyncio.run(use())
