"""What the API keeps in Redis and in memory while processes and versions come and go."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from signal import SIGCONT, SIGSTOP

import pytest
import redis.asyncio

from contracts.metrics.dependencies import count_redis
from contracts.metrics.exposition import Merged
from contracts.metrics.publishing import PUBLISH, RETAINED, SNAPSHOTS, Snapshots, alive_key
from contracts.metrics.registry import Metrics, Values, field_of
from contracts.metrics.table import FAMILIES
from contracts.queue.celery import ASYNC_REDIS_OPTIONS
from service.metrics import publisher
from service.metrics.publisher import MetricsService
from tests.valkey import RealValkey

VERSIONS = 3000


def run(
    valkey: RealValkey, work: Callable[[redis.asyncio.Redis, MetricsService], Awaitable[None]]
) -> None:
    async def connected() -> None:
        async with redis.asyncio.Redis.from_url(valkey.url, **ASYNC_REDIS_OPTIONS) as client:
            await work(client, MetricsService(client, Metrics(), "me"))

    asyncio.run(connected())


async def values_of(service: MetricsService) -> Values:
    merged = Merged()
    merged.add_all(*await service.read())
    return merged.values


async def counted(service: MetricsService, field: str) -> list[float]:
    """As Redis knows it, which on a busy machine may not answer in time at first."""
    for _ in range(30):
        if field in (values := await values_of(service)):
            return values[field]
    raise AssertionError("Redis does not answer")


async def end(client: redis.asyncio.Redis, process: str, metrics: Metrics) -> None:
    """A process that has published and is gone."""
    snapshots = Snapshots(metrics, process, "job", "here")
    await client.register_script(PUBLISH)(keys=snapshots.keys, args=snapshots.next_args())
    await client.delete(alive_key(snapshots.id))


def test_what_jobs_leave_does_not_pile_up_if_nobody_asks(valkey: RealValkey) -> None:
    async def work(client: redis.asyncio.Redis, service: MetricsService) -> None:
        for number in range(50):
            metrics = Metrics()
            metrics.inc("training_epochs_total", "head")
            await end(client, f"job{number}", metrics)
        assert await client.hlen(SNAPSHOTS) == 50
        await service.drop_unserved(lambda *_: True)  # once a minute
        assert await client.hkeys(SNAPSHOTS) == [b"me.0"]
        values = await values_of(service)
        assert values[field_of("training_epochs_total", ("head",))] == [50]

    run(valkey, work)


def test_series_of_thousands_of_versions_and_models_go(
    valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_DROP_SECONDS", 0.0)

    async def work(client: redis.asyncio.Redis, service: MetricsService) -> None:
        ended, own = Metrics(), service._metrics
        for number in range(VERSIONS):
            labels = ("pets", str(number), "classify")
            ended.inc("executions_total", *labels)
            ended.inc("version_loads_total", f"model-{number}", "success")
            own.inc("requests_total", *labels, "success", "")
        await end(client, "w1", ended)
        served = {("pets", "7"), ("pets", ""), ("model-8", "")}
        for _ in range(2):  # for how long it has been gone is known from the second time on
            await service.drop_unserved(lambda *owner: owner in served)
        retained = set(await client.hkeys(RETAINED))
        assert {name for name in retained if b"\x1f" in name} == {
            field_of("executions_total", ("pets", "7", "classify")).encode(),
            field_of("version_loads_total", ("model-8", "success")).encode(),
        }
        kept = [name for name in own.read()["c"] if "requests_total\x1fpets" in name]
        assert kept == [field_of("requests_total", ("pets", "7", "classify", "success", ""))]

    run(valkey, work)


def test_without_redis_counters_are_left_out_and_nothing_waits() -> None:
    """Of two API processes that are asked in turn, each would show what it last knew."""
    valkey = RealValkey()
    valkey.start()

    async def work(client: redis.asyncio.Redis, service: MetricsService) -> None:
        count_redis(client, service._metrics)  # as in the API: calls are repeated for seconds
        service._metrics.inc("requeued_images_total", by=3)
        service._metrics.set("process_threads", 4)
        own = field_of("process_threads", ("api", service._snapshots.host, "me"))
        field = field_of("requeued_images_total", ())
        assert await counted(service, field) == [3]
        assert valkey.process is not None
        for stop, go_on in (
            (
                partial(valkey.process.send_signal, SIGSTOP),
                partial(valkey.process.send_signal, SIGCONT),
            ),
            (valkey.kill, valkey.start),
        ):
            stop()
            values = await values_of(service)
            assert own in values
            assert {FAMILIES[name.split("\x1f")[0]].merge for name in values} == {
                "process",
                "scrape",
            }
            go_on()
            assert await counted(service, field) == [3]

    try:
        run(valkey, work)
    finally:
        valkey.close()
