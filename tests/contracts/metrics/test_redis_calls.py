"""What is counted of the calls of Redis, while a real one goes away and comes back."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from contracts.metrics.dependencies import count_redis
from contracts.metrics.registry import Metrics
from tests.valkey import RealValkey


@pytest.fixture
def own_valkey() -> Iterator[RealValkey]:
    valkey = RealValkey()
    valkey.start()
    yield valkey
    valkey.close()


def counted(metrics: Metrics, name: str) -> float:
    return sum(
        values[0] for field, values in metrics.read()["c"].items() if field.split("\x1f")[0] == name
    )


def assert_counts(metrics: Metrics, *, errors: int, retries: int, connections: int) -> None:
    assert counted(metrics, "redis_errors_total") == errors
    assert counted(metrics, "redis_retries_total") == retries
    assert counted(metrics, "redis_connections_total") == connections


def test_a_synchronous_client_counts_errors_retries_and_connections(
    own_valkey: RealValkey,
) -> None:
    metrics = Metrics()
    with redis.Redis.from_url(own_valkey.url, retry=Retry(NoBackoff(), 3)) as client:
        count_redis(client, metrics)
        for _ in range(3):
            client.ping()
        assert_counts(metrics, errors=0, retries=0, connections=1)
        own_valkey.kill()
        with contextlib.suppress(redis.RedisError):
            client.ping()
        failed = counted(metrics, "redis_errors_total")
        assert failed >= 4, "the call and its three repetitions"
        assert counted(metrics, "redis_retries_total") < failed
        own_valkey.start()
        client.ping()
        assert counted(metrics, "redis_errors_total") == failed
        assert counted(metrics, "redis_connections_total") == 2
    kinds = {field.split("\x1f")[1] for field in metrics.read()["c"] if "redis_errors" in field}
    assert kinds == {"ConnectionError"}


def test_an_asynchronous_client_counts_the_same(own_valkey: RealValkey) -> None:
    metrics, retry = Metrics(), AsyncRetry(NoBackoff(), 3)

    async def work() -> None:
        async with redis.asyncio.Redis.from_url(own_valkey.url, retry=retry) as client:
            count_redis(client, metrics)
            await client.ping()
            assert_counts(metrics, errors=0, retries=0, connections=1)
            own_valkey.kill()
            with contextlib.suppress(redis.RedisError):
                await client.ping()
            failed = counted(metrics, "redis_errors_total")
            assert failed >= 4
            assert counted(metrics, "redis_retries_total") < failed
            own_valkey.start()
            await client.ping()
            assert counted(metrics, "redis_errors_total") == failed
            assert counted(metrics, "redis_connections_total") == 2

    asyncio.run(work())
