"""Work for one client is cancelled as soon as the client disconnects."""

import asyncio
from typing import cast

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from service.http.disconnect import while_connected


class Client:
    """Replaces a request; disconnects on command."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def as_request(client: Client) -> Request:
    return cast(Request, client)


def test_the_result_is_returned_and_the_watcher_ends() -> None:
    async def body() -> tuple[int, int, int]:
        async def work() -> int:
            await asyncio.sleep(0)
            return 7

        answer = await while_connected(as_request(Client()), work())
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return answer, len(asyncio.all_tasks()), task.cancelling()

    assert asyncio.run(body()) == (7, 1, 0)


def test_a_disconnect_cancels_the_work_and_releases_its_resources() -> None:
    async def body() -> int:
        client, released = Client(), []

        async def work() -> None:
            try:
                client.gone.set()
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                released.append(True)

        with pytest.raises(ClientDisconnect):
            await while_connected(as_request(client), work())
        assert released
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)  # would raise if the cancellation were still pending
        return task.cancelling()

    assert asyncio.run(body()) == 0


def test_a_deadline_that_passes_stays_a_deadline() -> None:
    async def body() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await while_connected(as_request(Client()), asyncio.sleep(60))

    asyncio.run(body())


def test_a_deadline_and_a_disconnect_at_once_are_a_deadline() -> None:
    async def body() -> None:
        client = Client()

        async def work() -> None:
            client.gone.set()
            # The watcher and the deadline both cancel during this.
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)

        with pytest.raises((TimeoutError, ClientDisconnect)):
            async with asyncio.timeout(0.02):
                await while_connected(as_request(client), work())
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(body())


def test_an_exception_of_the_work_is_raised() -> None:
    async def body() -> None:
        async def work() -> None:
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await while_connected(as_request(Client()), work())

    asyncio.run(body())
