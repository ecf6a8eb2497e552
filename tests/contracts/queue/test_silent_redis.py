"""What a client does while Redis is stopped or refuses it: it gives up in time."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import redis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.metrics.dependencies import count_redis
from contracts.metrics.registry import Metrics
from contracts.queue import retries
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
    monkeypatch.setattr(retries, "TRY_SECONDS", 0.2)

    async def count() -> None:
        async with Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS | SHORT) as client:
            if counted:
                count_redis(client, Metrics())
            await client.incr("tries")
            with stopped(valkey):
                for _ in range(2):  # the second one needs a new connection, which is silent too
                    async with asyncio.timeout(LONGEST):
                        with pytest.raises((RedisTimeoutError, RedisConnectionError)):
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


@contextmanager
def loading(valkey: RealValkey) -> Iterator[None]:
    with redis.Redis.from_url(valkey.url) as client:
        client.mset({str(number): os.urandom(2000) for number in range(100)})
        client.save()
    valkey.kill()
    valkey.start(until_loaded=False)
    yield


@contextmanager
def password_changed(valkey: RealValkey) -> Iterator[None]:
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("requirepass", "another")
    yield


@contextmanager
def too_many_clients(valkey: RealValkey) -> Iterator[None]:
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("maxclients", 1)
        yield


SLOWLY_LOADING = (
    *("--appendonly", "no", "--key-load-delay", "100000"),
    *("--loading-process-events-interval-bytes", "1024"),
)
REFUSALS = [
    pytest.param(loading, 12, id="loading"),
    pytest.param(too_many_clients, 12, id="too many clients"),
    pytest.param(password_changed, 1, id="password changed"),
]


@pytest.mark.parametrize(("refusing", "most"), REFUSALS)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_redis_that_refuses_is_asked_a_few_times_and_not_for_long(
    refusing: Callable[[RealValkey], AbstractContextManager[None]],
    most: int,
    is_async: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """redis-py alone makes 121 connections for one call, and takes most of a minute."""
    monkeypatch.setattr(retries, "TRY_SECONDS", 1.0)
    valkey, metrics = RealValkey(*SLOWLY_LOADING), Metrics()
    valkey.start()

    async def call() -> None:
        async with Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS) as client:
            count_redis(client, metrics)
            await client.get("key")

    def call_at_once() -> None:
        with redis.Redis.from_url(valkey.url, **REDIS_OPTIONS) as client:
            count_redis(client, metrics)
            client.get("key")

    try:
        with refusing(valkey):
            began = time.monotonic()
            with pytest.raises(RedisConnectionError):
                asyncio.run(call()) if is_async else call_at_once()
            assert time.monotonic() - began < LONGEST
    finally:
        valkey.close()
    counts = {field.split("\x1f")[0]: value[0] for field, value in metrics.read()["c"].items()}
    assert counts["redis_errors_total"] <= most
