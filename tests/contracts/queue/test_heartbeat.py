"""Heartbeats in a real Valkey: those of this release, of another one, and expired ones."""

import asyncio
import json

import pytest
import redis
import redis.asyncio

from contracts.queue import redis_keys
from contracts.queue.heartbeat import HeldModel, WorkerBeat, read_heartbeats, read_heartbeats_async
from tests.valkey import RealValkey


def heartbeat(worker_id: str, *models: HeldModel) -> WorkerBeat:
    return WorkerBeat(
        id=worker_id, host="h", pid=1, release="1.0", started_at=0, beat_at=0, models=models
    )


@pytest.fixture
def client(valkey: RealValkey) -> redis.Redis:
    client = valkey.client()
    client.sadd(redis_keys.WORKERS, "w1", "other", "gone")
    client.set(redis_keys.heartbeat_key("w1"), heartbeat("w1").model_dump_json())
    client.set(redis_keys.heartbeat_key("other"), json.dumps({"release": "0.9"}))
    return client


def test_readers_separate_readable_unreadable_and_expired(
    valkey: RealValkey, client: redis.Redis
) -> None:
    async def read_async() -> tuple[str, ...]:
        async with redis.asyncio.Redis.from_url(valkey.url) as connection:
            return (await read_heartbeats_async(connection)).expired

    heartbeats = read_heartbeats(client)
    assert heartbeats.workers == (heartbeat("w1"),)
    assert len(heartbeats.unreadable) == 1
    assert heartbeats.expired == ("gone",)
    assert heartbeats.releases() == {"1.0", "0.9"}
    assert asyncio.run(read_async()) == ("gone",)
    assert client.smembers(redis_keys.WORKERS) == {b"w1", b"other"}, "expired ids are removed"


def test_no_workers_are_no_heartbeats(valkey: RealValkey) -> None:
    assert read_heartbeats(valkey.client()).workers == ()


def test_loaded_versions_are_those_that_answer() -> None:
    answering = HeldModel(name="pets", version=2, state="ready", operations=("classify",))
    loading = HeldModel(name="pets", version=3, state="loading")
    assert heartbeat("w1", answering, loading).loaded_versions("pets") == {2: answering}
