"""What a client of Redis does while that is stopped: it gives up in time, and repeats nothing."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.metrics.dependencies import count_redis
from contracts.metrics.registry import Metrics
from contracts.queue import celery
from contracts.queue.celery import ASYNC_REDIS_OPTIONS, REDIS_OPTIONS
from tests.valkey import RealValkey

SHORT = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
LONGEST = 8.0  # ten tries take longer


@contextmanager
def stopped(valkey: RealValkey) -> Iterator[None]:
    assert valkey.process
    valkey.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        valkey.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("counted", [False, True])
def test_a_call_ends_with_its_timeout_and_is_carried_out_once(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    monkeypatch.setattr(celery, "_TRY_SECONDS", 0.2)

    async def count() -> None:
        async with Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS | SHORT) as client:
            if counted:
                count_redis(client, Metrics())
            await client.incr("tries")
            with stopped(valkey):
                for _ in range(2):  # the second one needs a new connection, which is silent too
                    async with asyncio.timeout(LONGEST):
                        with pytest.raises(RedisTimeoutError):
                            await client.incr("tries")

    asyncio.run(count())
    with redis.Redis.from_url(valkey.url, **REDIS_OPTIONS) as client:
        # Redis had received it, and carries it out as it goes on.
        assert client.get("tries") == b"2"


def test_a_restarted_redis_is_asked_again(valkey: RealValkey) -> None:
    with redis.Redis.from_url(valkey.url, **REDIS_OPTIONS) as client:
        assert client.incr("tries") == 1
        valkey.kill()
        valkey.start()
        assert client.incr("tries") == 2
