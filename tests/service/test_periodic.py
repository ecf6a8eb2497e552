import asyncio

from service.periodic import Rounds


def test_a_fault_costs_one_round_and_not_those_after_it() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(len(done))
        if len(done) == 1:
            raise KeyError("nobody thought of this")

    async def body() -> None:
        rounds = Rounds("test", work, seconds=0.001)
        rounds.start()
        await asyncio.sleep(1)
        assert len(done) > 2
        await rounds.stop()
        stopped_at = len(done)
        await asyncio.sleep(0.02)
        assert len(done) == stopped_at

    asyncio.run(body())


def test_a_failing_round_waits_longer() -> None:
    done: list[float] = []

    async def body() -> None:
        async def work() -> None:
            done.append(asyncio.get_running_loop().time())
            raise ConnectionError

        rounds = Rounds("test", work, seconds=0, after_fault=0.05)
        rounds.start()
        await asyncio.sleep(0.14)
        await rounds.stop()

    asyncio.run(body())
    assert 2 <= len(done) <= 4


def test_it_ends_even_where_a_cancellation_is_swallowed() -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            await asyncio.sleep(0)

    async def body() -> None:
        rounds = Rounds("test", work, seconds=0)
        rounds.start()
        await asyncio.sleep(0.02)
        async with asyncio.timeout(2):
            await rounds.stop()

    asyncio.run(body())
