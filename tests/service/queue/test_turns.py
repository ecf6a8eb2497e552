"""Clients alternate in the queues of slow operations."""

import asyncio
import random

import pytest

from contracts.queue.redis_keys import QueueName
from service.inference.fair_pool import part_of
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


def test_parts_of_a_client_share_its_turns() -> None:
    """An app with many people waiting keeps the users of another app waiting no longer."""
    order: list[str] = []

    async def use() -> None:
        turns, all_wait = Turns(), asyncio.Event()

        async def request(client: str, person: str) -> None:
            async with turns.turn(QUEUE, part_of(client, person), 1, 1):
                order.append(person)
                await all_wait.wait()

        people = [
            ("app", "a"),
            *[("app", name) for name in "bbccd"],
            ("other", "z"),
            ("other", "y"),
        ]
        tasks = [asyncio.create_task(request(*one)) for one in people]
        await asyncio.sleep(0.01)
        all_wait.set()
        await asyncio.gather(*tasks)

    asyncio.run(use())
    assert "".join(order) == "abzcydbc"


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
        await asyncio.wait_for(request(), 30)

    asyncio.run(use())


@pytest.mark.parametrize("seed", range(40))
def test_whoever_leaves_at_any_moment_all_places_are_free_in_the_end(seed: int) -> None:
    """Holders end and waiters are cancelled, or out of time, in the same round of the loop."""
    chance = random.Random(seed)

    async def use() -> None:
        turns, held, ended = Turns(), 0, 0
        places = chance.randint(1, 4)
        ends: dict[asyncio.Task[None], asyncio.Event] = {}

        async def request(client: str, count: int, end: asyncio.Event, seconds: float) -> None:
            nonlocal held, ended
            async with asyncio.timeout(seconds), turns.turn(QUEUE, client, count, places):
                held += count
                assert held <= max(places, count)
                try:
                    await end.wait()
                finally:
                    held -= count
            ended += 1

        for _ in range(60):
            for _ in range(chance.randint(0, 3)):
                end, seconds = asyncio.Event(), chance.choice([0.0, 0.001, 0.002, 60, 60, 60])
                work = request(chance.choice("abc"), chance.randint(1, 3), end, seconds)
                ends[asyncio.create_task(work)] = end
            for task, end in chance.sample([*ends.items()], min(len(ends), 4)):
                chance.choice([end.set, task.cancel])()
            await asyncio.sleep(chance.choice([0, 0, 0.001]))
        for end in ends.values():
            end.set()
        outcomes = await asyncio.wait_for(asyncio.gather(*ends, return_exceptions=True), 10)
        gone = [one for one in outcomes if one is not None]
        assert all(isinstance(one, asyncio.CancelledError | TimeoutError) for one in gone), gone
        assert ended == len(outcomes) - len(gone)
        assert not turns._lines  # nobody waits, and no place is taken

    asyncio.run(use())


def test_a_slice_is_about_a_second_of_work() -> None:
    assert [slice_size(rate) for rate in (None, 0.2, 3.0, 40.0)] == [4, 1, 3, 40]
