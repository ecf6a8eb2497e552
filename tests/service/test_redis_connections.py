"""More requests at once than there are connections to Redis."""

import asyncio

from contracts.metrics.registry import Metrics
from service import lifespan
from tests.valkey import RealValkey


def test_calls_wait_for_a_connection_instead_of_failing(valkey: RealValkey) -> None:
    """redis-py has a hundred, and would refuse what comes on top as if Redis did not answer."""

    async def crowd() -> list[int]:
        async with lifespan._connect(valkey.url, Metrics()) as client:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(client.incr("calls")) for _ in range(400)]
            return [task.result() for task in tasks]

    assert sorted(asyncio.run(crowd())) == list(range(1, 401))
