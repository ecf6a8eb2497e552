"""Clients alternate in the queues of slow operations."""

import asyncio

import pytest

from contracts.queue.redis_keys import QueueName
from service.queue.turns import Turns, slice_size

QUEUE = QueueName("squeezenet", 1, "explain")


def test_clients_alternate_whatever_each_has_sent() -> None:
    order: list[str] = []

    async def use() -> None:
        turns, all_wait = Turns(), asyncio.Event()

        async def request(client: str) -> None:
            async with turns.turn(QUEUE, client, 1, 1):
                order.append(client)
                await all_wait.wait()

        clients = ["many"] * 6 + ["b", "c", "b"]
        tasks = [asyncio.create_task(request(client)) for client in clients]
        await asyncio.sleep(0.01)
        all_wait.set()
        await asyncio.gather(*tasks)

    asyncio.run(use())
    assert order == ["many", "many", "b", "c", "many", "b", "many", "many", "many"]


def test_small_slices_share_the_places() -> None:
    async def use() -> None:
        turns, entered = Turns(), 0
        release = asyncio.Event()

        async def request(count: int) -> None:
            nonlocal entered
            async with turns.turn(QUEUE, "one", count, 4):
                entered += 1
                await release.wait()

        tasks = [asyncio.create_task(request(count)) for count in (1, 2, 1, 9)]
        await asyncio.sleep(0.01)
        assert entered == 3
        release.set()
        await asyncio.gather(*tasks)
        assert entered == 4  # a slice larger than all places, on its own

    asyncio.run(use())


@pytest.mark.parametrize("is_granted", [False, True])
def test_who_gives_up_takes_no_place(is_granted: bool) -> None:
    async def use() -> None:
        turns = Turns()

        async def request() -> None:
            async with turns.turn(QUEUE, "one", 1, 1):
                pass

        async with turns.turn(QUEUE, "one", 1, 1):
            gone = asyncio.create_task(request())
            await asyncio.sleep(0)
            if not is_granted:
                gone.cancel()
                await asyncio.sleep(0)
        gone.cancel()  # perhaps just after its turn has come
        await asyncio.gather(gone, return_exceptions=True)
        await asyncio.wait_for(request(), 5)

    asyncio.run(use())


def test_a_slice_is_about_a_second_of_work() -> None:
    assert [slice_size(rate) for rate in (None, 0.2, 3.0, 40.0)] == [4, 1, 3, 40]
