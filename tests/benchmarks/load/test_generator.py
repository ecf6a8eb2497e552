"""The load generator with a small server that stalls, fails or does not respond."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load.generator import Generator
from benchmarks.load.plan import Plan, Result
from benchmarks.load.summary import percentile, summarize

Handler = Callable[[int], Awaitable[bytes]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def server(handler: Handler, together: bool = False) -> AsyncIterator[int]:
    """Respond to the n-th request with `handler(n)`, one at a time unless `together`.

    Yields:
        The port.
    """
    count, lock = 0, asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                await reader.readexactly(int(length))
                async with contextlib.nullcontext() if together else lock:
                    count += 1
                    writer.write(await handler(count))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


def run(handler: Handler, *, together: bool = False, **plan: float | None) -> Result:
    async def measure() -> Result:
        async with server(handler, together) as port:
            settings = Plan(port, "/", "", warmup=0, **plan)  # type: ignore[arg-type]
            record = await Generator(settings, [b"image"]).run()
            return summarize(record, closed=settings.rate is None)

    return asyncio.run(measure())


async def respond_immediately(_: int) -> bytes:
    return OK


def test_closed_loop_counts_responses_and_its_own_cost() -> None:
    result = run(respond_immediately, clients=2, seconds=0.3)
    assert result.errors == {}
    assert result.answered > 20
    # Both are of a third of a second on a machine that does other things too.
    assert result.throughput == pytest.approx(result.answered / result.seconds, rel=0.3)
    assert result.served >= result.answered
    assert result.own_cpu_ms > 0


def test_throughput_does_not_depend_on_where_in_a_batch_the_measurement_ends() -> None:
    # Four clients and batches of four that take 0.8 s: five per second, in 1.1 s as in 1.5 s.
    for seconds in (1.1, 1.5):
        together = asyncio.Barrier(4)

        async def in_batches_of_four(_: int, together: asyncio.Barrier = together) -> bytes:
            async with asyncio.timeout(30):
                await together.wait()
            await asyncio.sleep(0.8)
            return OK

        result = run(in_batches_of_four, clients=4, seconds=seconds, together=True)
        assert result.errors == {}
        assert result.answered == 8
        assert result.throughput == pytest.approx(5, rel=0.2)


def test_latency_counts_from_when_a_request_should_have_been_sent() -> None:
    async def stalls_once(number: int) -> bytes:
        await asyncio.sleep(0.4 if number == 1 else 0)
        return OK

    # With one connection, requests that arrive while the first one stalls are sent late. A
    # generator that ignores this delay would report only one slow request.
    result = run(stalls_once, clients=1, rate=200, seconds=0.8)
    assert result.errors == {}
    assert result.latency["max"] >= 390
    assert result.latency["p90"] > 200


def test_timeout_counts_as_its_limit() -> None:
    async def silent(_: int) -> bytes:
        await asyncio.sleep(1)
        return OK

    result = run(silent, clients=1, seconds=0.1, timeout=0.2)
    assert result.answered == 0
    assert result.errors == {"timeout": 1}
    assert result.latency["max"] >= 200


def test_refusals_are_counted_by_status() -> None:
    async def every_second_is_refused(number: int) -> bytes:
        return OK if number % 2 else BUSY

    result = run(every_second_is_refused, clients=1, seconds=0.2)
    assert abs(result.errors["429"] - result.answered) <= 1


def test_lost_connection_is_an_error_and_is_reopened() -> None:
    async def hangs_up_once(number: int) -> bytes:
        if number == 1:
            raise ConnectionError
        return OK

    result = run(hangs_up_once, clients=1, seconds=0.3)
    assert result.errors == {"connection": 1}
    assert result.answered > 0


@pytest.mark.parametrize(("batch", "batch_size"), [(b'"batch_size":4,', 4), (b"", None)])
def test_stages_and_rest_add_up_to_the_latency(batch: bytes, batch_size: int | None) -> None:
    timing = b'"timing_ms":{"decode":1.0,"queue":2.0,"compute":3.0,"total":6.0}'
    body = b"{" + batch + timing + b"}"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def respond_with_timings(_: int) -> bytes:
        await asyncio.sleep(0.02)
        return head + body

    result = run(respond_with_timings, clients=1, seconds=0.2)
    assert result.batch_size == batch_size
    assert result.stages["compute"] == 3
    assert sum(result.stages.values()) == pytest.approx(result.latency["mean"], abs=0.01)


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 50) == 7
