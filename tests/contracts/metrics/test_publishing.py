"""Snapshots in a real Valkey: processes that end, are killed, or are silent for a while."""

from collections.abc import Iterator

import pytest
import redis

from contracts.metrics.exposition import Merged, exposition
from contracts.metrics.publisher import MetricsPublisher
from contracts.metrics.publishing import (
    FOLD,
    FOLD_ARGS,
    FOLD_KEYS,
    PUBLISH,
    Snapshots,
    alive_key,
    parse_fold,
)
from contracts.metrics.registry import Metrics, field_of
from tests.valkey import RealValkey

QUEUE = ("squeezenet", "1", "classify")


@pytest.fixture
def client(valkey: RealValkey) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


def publish(client: "redis.Redis", snapshots: Snapshots) -> None:
    script = client.register_script(PUBLISH)
    while not snapshots.accepted(script(keys=snapshots.keys, args=snapshots.next_args())):
        pass


def merged(client: "redis.Redis") -> Merged:
    answer = client.register_script(FOLD)(keys=FOLD_KEYS, args=FOLD_ARGS)
    snapshots, retained = parse_fold(answer)
    result = Merged()
    result.add_values(retained)
    for snapshot in snapshots:
        result.add(snapshot)
    return result


def value(client: "redis.Redis", name: str, *labels: str) -> list[float] | None:
    return merged(client).values.get(field_of(name, labels))


def test_the_counts_of_processes_are_added_up(client: "redis.Redis") -> None:
    for kind in ("api", "worker"):
        metrics = Metrics()
        metrics.inc("executions_total", *QUEUE, by=3)
        metrics.observe("batch_images", 4, *QUEUE)
        metrics.set("process_threads", 7)
        publish(client, Snapshots(metrics, kind, kind, "here"))
    assert value(client, "executions_total", *QUEUE) == [6]
    *buckets, total = value(client, "batch_images", *QUEUE) or []
    assert (buckets, total) == ([0, 0, 2, 2, 2, 2, 2, 2, 2], 8)
    assert value(client, "process_threads", "api", "here", "api") == [7]


def test_a_dead_process_keeps_its_counts_and_loses_its_gauges(client: "redis.Redis") -> None:
    metrics = Metrics()
    metrics.inc("executions_total", *QUEUE, by=5)
    metrics.observe("compute_seconds", 0.1, *QUEUE)
    metrics.set("heatmap_cache_bytes", 100)
    metrics.set("process_threads", 7)
    snapshots = Snapshots(metrics, "w1", "worker", "here")
    publish(client, snapshots)
    client.delete(alive_key(snapshots.id))  # as it expires
    for _ in range(2):  # the second time, nothing is added again
        assert value(client, "executions_total", *QUEUE) == [5]
        assert (value(client, "compute_seconds", *QUEUE) or [])[-1] == pytest.approx(0.1)
        assert value(client, "heatmap_cache_bytes") is None
        assert value(client, "process_threads", "worker", "here", "w1") is None


def test_a_process_that_was_silent_does_not_count_twice(client: "redis.Redis") -> None:
    metrics = Metrics()
    metrics.inc("executions_total", *QUEUE, by=5)
    snapshots = Snapshots(metrics, "w1", "worker", "here")
    for _ in range(3):
        publish(client, snapshots)
        client.delete(alive_key(snapshots.id))
        assert value(client, "executions_total", *QUEUE) == [5]
    metrics.inc("executions_total", *QUEUE, by=2)
    publish(client, snapshots)
    assert value(client, "executions_total", *QUEUE) == [7]


def test_a_publication_without_an_answer_does_not_count_twice(client: "redis.Redis") -> None:
    metrics = Metrics()
    metrics.inc("executions_total", *QUEUE, by=5)
    snapshots = Snapshots(metrics, "w1", "worker", "here")
    publish(client, snapshots)
    metrics.inc("executions_total", *QUEUE)
    # Redis keeps this one, but its answer is lost, and then the process is silent.
    client.register_script(PUBLISH)(keys=snapshots.keys, args=snapshots.next_args())
    client.delete(alive_key(snapshots.id))
    assert value(client, "executions_total", *QUEUE) == [6]
    metrics.inc("executions_total", *QUEUE)
    publish(client, snapshots)
    assert value(client, "executions_total", *QUEUE) == [7]


def test_an_orderly_stop_loses_nothing(client: "redis.Redis") -> None:
    metrics = Metrics()
    publisher = MetricsPublisher(client, metrics, "w1", "worker")
    publisher.start()
    metrics.inc("executions_total", *QUEUE, by=9)
    publisher.stop()
    assert value(client, "executions_total", *QUEUE) == [9]


def test_metrics_of_another_release_are_left_out(client: "redis.Redis") -> None:
    metrics = Metrics()
    metrics.inc("executions_total", *QUEUE)
    publish(client, Snapshots(metrics, "w1", "worker", "here"))
    result = merged(client)
    result.add_values({"unknown_total": [1.0], field_of("batch_images", QUEUE): [1.0, 2.0]})
    text, _ = exposition(result.families(lambda *_: True), "")
    assert b"unknown" not in text
    assert b"opsin_executions_total{" in text


def test_the_series_of_a_version_go_with_it(client: "redis.Redis") -> None:
    metrics = Metrics()
    for version in ("1", "2"):
        metrics.inc("executions_total", "pets", version, "classify")
    result = Merged()
    result.add(metrics.read() | {"kind": "worker", "host": "here", "process": "w1"})
    text, _ = exposition(result.families(lambda _, version: version == "2"), "")
    assert b'version="2"' in text
    assert b'version="1"' not in text
    metrics.drop({("pets", "1")})
    field = field_of("executions_total", ("pets", "1", "classify"))
    assert field not in metrics.read()["c"]
    metrics.inc("executions_total", "pets", "1", "classify")  # loaded again: from zero
    assert metrics.read()["c"][field] == [1]
