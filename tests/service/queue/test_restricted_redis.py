"""A managed Redis, which does not have administrative commands or does not allow them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.asyncio import Redis

from contracts.faces.subjects import NewSubject
from contracts.queue import redis_keys
from contracts.settings import Settings
from service.faces.privacy.erasure import erase
from service.queue.admission import QueueLimits
from service.queue.append_only_file import rewrite_append_only_file
from service.queue.client import QueueClient
from tests.service.parts import FakeServices, face_services_in
from tests.valkey import RealValkey

_ADMINISTRATIVE = ("BGREWRITEAOF", "CONFIG", "INFO", "DEBUG")


@pytest.fixture(params=["without the commands", "with an access control list"])
def restricted(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a Redis as providers offer it."""
    by_list = request.param != "without the commands"
    renamed = [part for name in _ADMINISTRATIVE for part in ("--rename-command", name, "")]
    server = RealValkey(*([] if by_list else renamed))
    server.start()
    try:
        if by_list:
            with redis.Redis.from_url(server.url) as admin:
                rules = ["on", ">word", "~*", "+@all", "-@admin", "-@dangerous"]
                admin.execute_command("ACL", "SETUSER", "app", *rules)
            yield server.url.replace("unix://", "unix://app:word@")
        else:
            yield server.url
    finally:
        server.close()


def test_an_erasure_ends(restricted: str, tmp_path: Path) -> None:
    fakes = FakeServices(faces=face_services_in(tmp_path, redis_url=restricted, tables=True))
    subject = str(fakes.faces.subjects.create(NewSubject(name="Ada"))["id"])

    async def work() -> None:
        async with fakes.open_services(Settings(_env_file=None)) as services:
            await erase(services, subject)

    with redis.Redis.from_url(restricted) as client:
        client.lpush(redis_keys.recent_clips(subject), b"hashes")
        asyncio.run(work())
        assert not client.exists(redis_keys.recent_clips(subject))
    assert fakes.faces.events.list(subject_id=subject).items[0].outcome == "erased"


def test_a_lost_queue_is_still_noticed(restricted: str) -> None:
    """INFO names the process of the server; without it, the loss of the data is noticed."""

    async def use() -> None:
        async with Redis.from_url(restricted) as client:
            queues = QueueClient(client, QueueLimits(8))
            epoch = await queues.server_epoch()
            assert await queues.server_epoch() == epoch
            await client.delete(redis_keys.EPOCH)
            assert await queues.server_epoch() != epoch

    asyncio.run(use())


def test_a_redis_without_the_file_needs_no_rewriting(valkey: RealValkey) -> None:
    async def use() -> list[bool]:
        async with Redis.from_url(valkey.url) as client:
            await client.config_set("appendonly", "no")
            try:
                return [await rewrite_append_only_file(client)]
            finally:
                await client.config_set("appendonly", "yes")

    assert asyncio.run(use()) == [True]
