"""A Redis that answers, but has no disk or no memory left."""

import asyncio
import secrets

import numpy as np
import pytest
import redis
from redis._parsers.base import BaseParser
from redis.asyncio import Redis

from contracts.errors import DiskUnusable, NeedsOperator, Unavailable
from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from service.queue.admission import QueueLimits
from service.queue.client import QueueClient
from service.queue.faults import redis_required
from tests.valkey import RealValkey


def test_the_memory_limit_is_named(valkey: RealValkey) -> None:
    item = Item(secrets.token_bytes(16), 2e9, 1e9, "replies", np.zeros((2, 2, 3), np.uint8))

    async def push() -> None:
        async with Redis.from_url(valkey.url) as client:
            queues = QueueClient(client, QueueLimits(8))
            with redis_required():
                await queues.push(QueueName("tiny", 1, "classify"), [item], seconds=5)

    with redis.Redis.from_url(valkey.url) as admin:
        admin.config_set("maxmemory", "1kb")
        try:
            with pytest.raises(NeedsOperator, match="maxmemory") as caught:
                asyncio.run(push())
        finally:
            admin.config_set("maxmemory", "0")
    assert caught.value.retry_after == 60


def test_a_full_disk_is_named(valkey: RealValkey) -> None:
    """As Valkey answers each write while its append-only file cannot grow."""
    answer = "MISCONF Errors writing to the AOF file: No space left on device"
    with (
        redis.Redis.from_url(valkey.url) as client,
        pytest.raises(DiskUnusable, match="disk, which is full"),
        redis_required(),
    ):
        client.eval(f"return redis.error_reply('{answer}')", 0)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("READONLY You can't write against a read only replica.", "replica"),
        ("NOREPLICAS Not enough good replicas to write.", "too few replicas"),
        ("NOAUTH Authentication required.", "refuses the password"),
        ("NOPERM this user has no permissions", "refuses the password or the rights"),
        ("LOADING Redis is loading the dataset in memory", "is loading its data"),
        ("ERR max number of clients reached", "maxclients"),
    ],
)
def test_what_redis_answers_is_named(answer: str, told: str) -> None:
    with pytest.raises(Unavailable, match=told), redis_required():
        raise BaseParser.parse_error(answer)


def test_one_that_does_not_answer_is_not_said_to_be_full() -> None:
    with pytest.raises(Unavailable, match="does not answer") as caught, redis_required():
        redis.Redis(unix_socket_path="/nonexistent").ping()
    assert not isinstance(caught.value, NeedsOperator)
