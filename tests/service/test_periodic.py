import asyncio
from itertools import pairwise

from service.periodic import PeriodicTask


def test_a_failure_ends_one_run_only() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(len(done))
        if len(done) == 1:
            raise KeyError("unexpected")

    async def body() -> None:
        rounds = PeriodicTask("test", work, seconds=0.001)
        rounds.start()
        await asyncio.sleep(1)
        assert len(done) > 2
        await rounds.stop()
        stopped_at = len(done)
        await asyncio.sleep(0.02)
        assert len(done) == stopped_at

    asyncio.run(body())


def test_the_pause_after_a_failure() -> None:
    done: list[float] = []

    async def body() -> None:
        async def work() -> None:
            done.append(asyncio.get_running_loop().time())
            raise ConnectionError

        rounds = PeriodicTask("test", work, seconds=0, after_fault=0.05)
        rounds.start()
        while len(done) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await rounds.stop()

    asyncio.run(body())
    assert all(later - earlier >= 0.04 for earlier, later in pairwise(done))


def test_it_stops_even_if_a_cancellation_is_swallowed() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    async def body() -> None:
        rounds = PeriodicTask("test", work, seconds=0)
        rounds.start()
        await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            await rounds.stop()

    asyncio.run(body())


def test_the_first_run_has_a_pause_of_its_own_and_can_be_waited_for() -> None:
    async def body() -> None:
        done: list[int] = []

        async def work() -> None:
            done.append(1)

        at_once = PeriodicTask("test", work, seconds=600, first=0)
        at_once.start()
        await at_once.first_run(30)
        assert done == [1]
        await at_once.stop()
        late = PeriodicTask("test", work, seconds=600)
        late.start()
        await late.first_run(0.01)
        assert done == [1]
        await late.stop()

    asyncio.run(body())
