"""What is written to the client, and when."""

import asyncio
from collections.abc import Callable

import pytest

from service.connections.joined_writes import JoinedWrites

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Recorded(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[bytes | str] = []
        self.unread = 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closing()
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("closed")

    def abort(self) -> None:
        self.done.append("aborted")

    def is_closing(self) -> bool:
        return not {"closed", "aborted"}.isdisjoint(self.done)


def written(use: Callable[[JoinedWrites], None]) -> tuple[list[bytes | str], list[bytes | str]]:
    """What is done at once, and in all."""

    async def run() -> tuple[list[bytes | str], list[bytes | str]]:
        recorded = Recorded()
        use(JoinedWrites(recorded, asyncio.get_running_loop()))
        at_once = list(recorded.done)
        await asyncio.sleep(0)
        return at_once, recorded.done

    return asyncio.run(run())


def test_head_and_body_are_written_together() -> None:
    def use(transport: JoinedWrites) -> None:
        for body in (b"one", b"two"):
            transport.write(HEAD)
            transport.write(body)

    assert written(use) == ([HEAD + b"one", HEAD + b"two"],) * 2


def test_a_head_whose_body_comes_later_is_not_held() -> None:
    assert written(lambda transport: transport.write(HEAD)) == ([], [HEAD])


def test_pieces_of_a_body_are_written_as_they_come() -> None:
    def use(transport: JoinedWrites) -> None:
        for data in (HEAD, b"one", b"two", b""):
            transport.write(data)

    assert written(use)[0] == [HEAD + b"one", b"two", b""]


def test_a_head_is_written_before_the_connection_is_closed() -> None:
    def use(transport: JoinedWrites) -> None:
        transport.write(HEAD)
        transport.close()

    assert written(use) == ([HEAD, "closed"],) * 2


def test_nothing_is_written_to_a_connection_that_was_given_up() -> None:
    def use(transport: JoinedWrites) -> None:
        transport.write(HEAD)
        transport.abort()

    assert written(use) == (["aborted"],) * 2


def test_nothing_is_written_to_a_connection_that_was_closed() -> None:
    def use(transport: JoinedWrites) -> None:
        transport.abort()
        transport.write(HEAD)
        transport.write(b"body")

    assert written(use) == (["aborted"],) * 2


@pytest.mark.parametrize("unread", [0, 1])
def test_it_is_told_once_when_a_connection_is_closed_before_all_is_read(unread: int) -> None:
    told: list[None] = []

    async def use() -> None:
        recorded = Recorded()
        recorded.unread = unread
        loop = asyncio.get_running_loop()
        transport = JoinedWrites(recorded, loop, on_close=lambda: told.append(None))
        transport.close()
        transport.close()

    asyncio.run(use())
    assert len(told) == unread
