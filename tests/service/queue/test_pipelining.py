"""Many calls on one connection, and what becomes of them when it is lost."""

import asyncio
import secrets
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.queue.celery import ASYNC_REDIS_OPTIONS
from contracts.queue.messages import Item, Reply
from contracts.queue.redis_keys import QueueName
from service.queue.admission import QueueLimits
from service.queue.client import QueueClient
from service.queue.pipelining import Command, PipelinedConnection
from service.queue.replies import Replies
from tests.valkey import RealValkey

QUEUE = QueueName("squeezenet", 1, "classify")


def use(
    valkey: RealValkey,
    test: Callable[[Redis, PipelinedConnection], Awaitable[None]],
    **options: float,
) -> None:
    async def run() -> None:
        async with Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS | options) as client:
            connection = PipelinedConnection(client)
            await connected(connection)
            await test(client, connection)

    asyncio.run(run())


async def connected(connection: PipelinedConnection) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await connection.call(("PING",))
            except RedisError:
                await asyncio.sleep(0.01)
            else:
                return


async def kill_others(client: Redis) -> None:
    await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def test_the_first_call_waits_for_no_connection(valkey: RealValkey) -> None:
    async def run() -> None:
        async with Redis.from_url(valkey.url) as client:
            with pytest.raises(RedisConnectionError, match="no connection yet"):
                await PipelinedConnection(client).call(("PING",))

    asyncio.run(run())


def test_each_of_many_calls_gets_its_own_answer(valkey: RealValkey) -> None:
    async def test(_client: Redis, connection: PipelinedConnection) -> None:
        calls = [connection.call(("ECHO", str(n)), ("ECHO", b"\r\n" * n)) for n in range(300)]
        answers = await asyncio.gather(*calls)
        assert answers == [[str(n).encode(), b"\r\n" * n] for n in range(300)]

    use(valkey, test)


def test_arguments_arrive_as_they_are(valkey: RealValkey) -> None:
    """Of every type and size, the large ones being sent without a copy."""

    async def test(client: Redis, connection: PipelinedConnection) -> None:
        arguments = [b"", b"\r\n$3\r\n", "naïve", 12, 0.25, bytes(5000), bytes(200_000), b"end"]
        await connection.call(("RPUSH", "list", *arguments), ("PING",))
        stored = await cast("Awaitable[list[bytes]]", client.lrange("list", 0, -1))
        assert stored == [one if isinstance(one, bytes) else str(one).encode() for one in arguments]

    use(valkey, test)


def test_a_caller_that_stops_waiting_takes_nobody_elses_answer(valkey: RealValkey) -> None:
    async def test(_client: Redis, connection: PipelinedConnection) -> None:
        given_up = asyncio.create_task(connection.call(("ECHO", "first")))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await connection.call(("ECHO", "second")) == [b"second"]
        assert given_up.cancelled()

    use(valkey, test)


def test_a_refused_command_concerns_its_caller_alone(valkey: RealValkey) -> None:
    async def test(_client: Redis, connection: PipelinedConnection) -> None:
        refused, answered = await asyncio.gather(
            connection.call(("NOTHING",), ("PING",)),
            connection.call(("ECHO", "other")),
            return_exceptions=True,
        )
        assert isinstance(refused, ResponseError)
        assert answered == [b"other"]
        assert await connection.call(("ECHO", "later")) == [b"later"]

    use(valkey, test)


def test_all_who_wait_learn_that_the_connection_is_lost(valkey: RealValkey) -> None:
    async def test(client: Redis, connection: PipelinedConnection) -> None:
        waiting = [asyncio.create_task(connection.call(("BLPOP", "none", 0))) for _ in range(3)]
        await asyncio.sleep(0.1)
        await kill_others(client)
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
        assert {type(one) for one in results} == {RedisConnectionError}
        await connected(connection)

    use(valkey, test)


def test_a_connection_lost_while_idle_is_replaced(valkey: RealValkey) -> None:
    async def test(client: Redis, connection: PipelinedConnection) -> None:
        before = client.connection_pool._in_use_connections  # type: ignore[attr-defined]
        for _ in range(3):
            await kill_others(client)
            with pytest.raises(RedisConnectionError):
                await connection.call(("PING",))
            await connected(connection)
        assert len(before) == 1, "each was given back to the pool"

    use(valkey, test)


def test_nobody_waits_for_a_silent_redis_longer_than_the_client_would(valkey: RealValkey) -> None:
    async def test(_client: Redis, connection: PipelinedConnection) -> None:
        assert valkey.process
        valkey.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(RedisTimeoutError):
                await asyncio.wait_for(connection.call(("PING",)), 30)
        finally:
            valkey.process.send_signal(signal.SIGCONT)
        await connected(connection)

    use(valkey, test, socket_timeout=0.3, socket_connect_timeout=0.3)


def item() -> Item:
    pixels = np.zeros((2, 2, 3), np.uint8)
    return Item(secrets.token_bytes(16), 2e9, 1e9, "replies", pixels)


def test_images_are_pushed_whatever_happens_to_connection_and_script(valkey: RealValkey) -> None:
    async def test(client: Redis, _connection: PipelinedConnection) -> None:
        queues = QueueClient(client, QueueLimits(100))
        for count, disturb in enumerate(
            (None, None, client.script_flush, lambda: kill_others(client), None), start=1
        ):
            if disturb is not None:
                await disturb()
            assert (await queues.push(QUEUE, [item()], seconds=9)).depth == count
            await connected(queues._pipelined)

    use(valkey, test)


def test_ordinary_images_do_not_wait_for_large_pushes(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    call = PipelinedConnection.call

    async def counted(self: PipelinedConnection, *commands: Command) -> list[Any]:
        sizes.extend(len(one) for one in commands[0] if isinstance(one, bytes))
        return await call(self, *commands)

    async def test(client: Redis, _connection: PipelinedConnection) -> None:
        queues = QueueClient(client, QueueLimits(100))
        for count, side in enumerate((8, 2048, 224), start=1):
            large = Item(bytes([count]) * 16, 2e9, 1e9, "r", np.zeros((side, side, 3), np.uint8))
            assert (await queues.push(QUEUE, [large], seconds=9)).depth == count
            await connected(queues._pipelined)

    monkeypatch.setattr(PipelinedConnection, "call", counted)
    use(valkey, test)
    assert 224 * 224 * 3 < max(sizes) < 2**20


def test_replies_come_in_one_piece_and_after_a_lost_connection(valkey: RealValkey) -> None:
    async def test(client: Redis, _connection: PipelinedConnection) -> None:
        async with Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS) as blocking:
            replies = Replies(blocking, "api")
            replies.start()
            for lose in (False, False, True, False):
                if lose:
                    await kill_others(client)
                items = [item() for _ in range(150)]
                futures = [replies.expect(one, QUEUE) for one in items]
                vector = np.ones(1, np.float32)
                packed = [Reply(one.id, 1, 1, 0, 0, vector=vector).pack() for one in items]
                await cast("Awaitable[int]", client.rpush(replies.key, *packed))
                async with asyncio.timeout(60):
                    assert [(await future).id for future in futures] == [one.id for one in items]
            await replies.stop()

    use(valkey, test)


class LossyProxy:
    """Stands for the network between a client and Valkey.

    Attributes:
        is_lossy: Whether the answers of Valkey are lost.
        lost: Bytes that were.
    """

    def __init__(self, valkey: RealValkey) -> None:
        self._valkey = valkey
        self._writers: list[asyncio.StreamWriter] = []
        self.is_lossy, self.lost = False, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, to_valkey = await asyncio.open_unix_connection(self._valkey.socket)
        self._writers += writer, to_valkey
        await asyncio.gather(self._pass_on(reader, to_valkey), self._lose(answers, writer))

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def _lose(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if self.is_lossy:
                self.lost += len(data)
            else:
                sink.write(data)
        sink.close()

    def cut(self) -> None:
        """End all connections; the next ones lose nothing."""
        self.is_lossy = False
        for writer in self._writers:
            writer.close()


async def send(client: Redis, replies: Replies) -> list[asyncio.Future[Reply]]:
    """Send replies as a worker does; returns what waits for them."""
    items = [item() for _ in range(100)]
    futures = [replies.expect(one, QUEUE) for one in items]
    vector = np.ones(1, np.float32)
    packed = [Reply(one.id, 1, 1, 0, 0, vector=vector).pack() for one in items]
    await cast("Awaitable[int]", client.rpush(replies.key, *packed))
    return futures


def test_replies_that_a_lost_connection_was_sent_come_again(
    valkey: RealValkey, tmp_path: Path
) -> None:
    async def test(client: Redis, _connection: PipelinedConnection) -> None:
        path, proxy = tmp_path / "proxy.sock", LossyProxy(valkey)
        server = await asyncio.start_unix_server(proxy.serve, path)
        async with Redis.from_url(f"unix://{path}", **ASYNC_REDIS_OPTIONS) as blocking:
            replies = Replies(blocking, "api")
            replies.start()
            async with asyncio.timeout(30):
                await asyncio.gather(*await send(client, replies))
                proxy.is_lossy = True
                futures = await send(client, replies)
                await asyncio.sleep(0.3)
                assert proxy.lost > 65 * 10
                proxy.cut()
                await asyncio.gather(*futures)
            await replies.stop()
            assert not await client.exists(replies.key)
        server.close()

    use(valkey, test)


def test_replies_come_although_the_memory_of_redis_is_full(valkey: RealValkey) -> None:
    async def test(client: Redis, _connection: PipelinedConnection) -> None:
        async with Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS) as blocking:
            replies = Replies(blocking, "api")
            futures = await send(client, replies)
            await client.config_set("maxmemory", "1mb")
            try:
                replies.start()
                async with asyncio.timeout(30):
                    await asyncio.gather(*futures)
            finally:
                await client.config_set("maxmemory", "0")
            await replies.stop()

    use(valkey, test)
