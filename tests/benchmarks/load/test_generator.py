"""The generator against a tiny server that stalls, fails or stays silent on purpose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load.generator import Generator
from benchmarks.load.plan import Plan, Result
from benchmarks.load.summary import percentile, summarise

Answering = Callable[[int], Awaitable[bytes]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def server(answering: Answering) -> AsyncIterator[int]:
    """Answers the n-th request with `answering(n)`, one after the other; yields its port."""
    count, one_by_one = 0, asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                async with one_by_one:
                    count += 1
                    writer.write(await answering(count))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


def run(answering: Answering, **plan: float | None) -> Result:
    async def go() -> Result:
        async with server(answering) as port:
            made = Plan(port, "/", "", warmup=0, **plan)  # type: ignore[arg-type]
            return summarise(await Generator(made, [b"picture"]).run())

    return asyncio.run(go())


async def at_once(_: int) -> bytes:
    return OK


def test_a_closed_loop_counts_every_answer_and_knows_its_own_cost() -> None:
    result = run(at_once, clients=2, seconds=0.3)
    assert result.errors == {}
    assert result.answered > 20
    assert result.throughput == pytest.approx(result.answered / result.seconds, rel=0.01)
    assert result.own_cpu_ms > 0


def test_latency_counts_from_the_moment_a_request_should_have_been_sent() -> None:
    async def stalls_once(number: int) -> bytes:
        await asyncio.sleep(0.4 if number == 1 else 0)
        return OK

    # One connection: while the first request stalls all that arrive wait unsent. A generator
    # that forgets that wait would tell of one slow request in some hundred.
    result = run(stalls_once, clients=1, rate=200, seconds=0.8)
    assert result.errors == {}
    assert result.latency["max"] >= 390
    assert result.latency["p90"] > 200


def test_what_is_not_answered_in_time_counts_at_its_bound() -> None:
    async def silent(_: int) -> bytes:
        await asyncio.sleep(1)
        return OK

    result = run(silent, clients=1, seconds=0.1, timeout=0.2)
    assert result.answered == 0
    assert result.errors == {"timeout": 1}
    assert result.latency["max"] >= 200


def test_refusals_are_counted_by_status_and_have_no_latency() -> None:
    async def every_second_is_refused(number: int) -> bytes:
        return OK if number % 2 else BUSY

    result = run(every_second_is_refused, clients=1, seconds=0.2)
    assert abs(result.errors["429"] - result.answered) <= 1


def test_a_lost_connection_is_an_error_and_the_next_one_is_opened() -> None:
    async def hangs_up_once(number: int) -> bytes:
        if number == 1:
            raise ConnectionError
        return OK

    result = run(hangs_up_once, clients=1, seconds=0.3)
    assert result.errors == {"connection": 1}
    assert result.answered > 0


@pytest.mark.parametrize(("batch", "told_batch"), [(b'"batch_size":4,', 4), (b"", None)])
def test_stages_leave_the_rest_to_the_way(batch: bytes, told_batch: int | None) -> None:
    timing = b'"timing_ms":{"decode":1.0,"queue":2.0,"compute":3.0,"total":6.0}'
    body = b"{" + batch + timing + b"}"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def told(_: int) -> bytes:
        await asyncio.sleep(0.02)
        return head + body

    result = run(told, clients=1, seconds=0.2)
    assert result.batch_size == told_batch
    assert result.stages["compute"] == 3
    assert sum(result.stages.values()) == pytest.approx(result.latency["mean"], abs=0.01)


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 50) == 7
