"""One connection to Redis that many requests use at a time.

For each call, redis-py takes a connection from its pool, looks whether it is sound, makes a task to
write with, and gives it back, which takes longer than the call itself. Here the commands of all
requests are written to one connection at once, and the answers come in the order of the commands.

Nothing is repeated and nobody waits for a connection: while there is none, a call fails at once and
the caller goes redis-py's own way, with its retries and their limits.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

Command = Sequence[bytes | str | int | float]
_LARGE = 4096  # bytes, which are not copied into one piece with others


class PipelinedConnection:
    """A connection from the pool of a client, kept for as long as it works; closed with the pool.

    Args:
        client: Its options hold, such as how long an answer is waited for.
    """

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._opening: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()  # in the order of the commands

    async def call(self, *commands: Command) -> list[Any]:
        """The answers to commands, which are written together.

        Raises:
            RedisConnectionError: There is no connection yet, or it was lost before all answers had
                come; some of the commands may have been executed.
            RedisError: Redis does not answer, or refuses one of them.
        """
        connection = self._connection
        if connection is None:
            self._open()
            raise RedisConnectionError("There is no connection yet")
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in commands]
        packed, is_idle = _packed(commands), not self._waiting
        self._waiting += futures
        if not connection._writer.is_closing():  # otherwise reading finds out why
            connection._writer.writelines(packed)
        if is_idle:
            self._reading = loop.create_task(self._read(connection))
        answers = [await future for future in futures]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _open(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        with suppress(RedisError, OSError):  # the caller's own call has met the same
            self._connection = await self._pool.get_connection()

    async def _read(self, connection: Any) -> None:
        """Read the answers to all commands that were written."""
        lost: Exception = RedisConnectionError("The connection was closed")
        try:
            while self._waiting:
                try:
                    answer = await connection.read_response()
                except ResponseError as error:
                    answer = error
                _resolve(self._waiting.popleft(), answer)
        except (RedisError, OSError) as error:
            lost = error
        finally:
            if self._waiting:
                self._connection = None
                while self._waiting:
                    _resolve(self._waiting.popleft(), lost)
                await connection.disconnect(nowait=True)
                await self._pool.release(connection)


def _packed(commands: Sequence[Command]) -> list[bytes]:
    """Commands as they are sent: with the number of their arguments, and the length of each."""
    pieces: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        small.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if isinstance(argument, bytes) else str(argument).encode()
            small.append(b"$%d\r\n" % len(data))
            if len(data) > _LARGE:
                pieces += b"".join(small), data
                small = [b"\r\n"]
            else:
                small += data, b"\r\n"
    return [*pieces, b"".join(small)]


def _resolve(future: "asyncio.Future[Any]", answer: object) -> None:
    if not future.done():  # the caller may have stopped waiting
        future.set_result(answer)
