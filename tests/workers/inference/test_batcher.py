"""The queue on a real Valkey: what the API pushes, the batcher answers."""

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event, Thread, Timer
from unittest.mock import Mock

import numpy as np
import pytest
import redis
import redis.asyncio
import structlog

from contracts.queue import redis_keys
from contracts.queue.clock import RedisClock
from contracts.queue.messages import Item, Reply
from contracts.queue.redis_keys import SCHEDULED_EXPIRE_MS, QueueName
from contracts.settings import Settings
from contracts.tracing.origin import Origin, TraceContext
from contracts.tracing.spans import start_tracing, stop_tracing
from tests.collector import collecting
from tests.valkey import RealValkey
from tests.workers.inference.queueing import (
    OTHER,
    QUEUE,
    Aliases,
    Mean,
    RecordingForwarder,
    StubExplainer,
    batcher_of,
    item_of,
    push,
    replies,
    with_client,
)
from workers.inference import batcher as batcher_module
from workers.inference.batch_runner import OutOfMemoryError
from workers.inference.queue import WorkerQueues
from workers.inference.statistics import InferenceStatistics


def test_only_the_first_push_has_to_schedule_a_task(valkey: RealValkey) -> None:
    assert push(valkey, item_of(1)) == (True, True, 1)
    assert push(valkey, item_of(2)) == (True, False, 2)


def test_full_queue_accepts_all_or_none(valkey: RealValkey, client: redis.Redis) -> None:
    push(valkey, *[item_of(1)] * 6)
    assert push(valkey, *[item_of(1)] * 3) == (False, False, 6)
    assert client.llen(QUEUE.key) == 6
    assert push(valkey, *[item_of(1)] * 2)[0]
    assert push(valkey, item_of(1), admitted=True)[0], (
        "items that were admitted before are not refused"
    )


def test_request_larger_than_the_limit_is_accepted_when_idle(valkey: RealValkey) -> None:
    assert push(valkey, *[item_of(1)] * 9)[0]


def test_each_item_gets_its_own_reply(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    items = [item_of(value) for value in (10, 20, 30, 40, 50, 60)]
    push(valkey, *items)
    batcher = batcher_of(client, network)
    assert batcher.run(QUEUE) == 6
    assert network.batches == [4, 2]
    received = replies(client)
    for item in items:
        vector = received[item.id].vector
        assert vector is not None
        np.testing.assert_allclose(vector, item.pixels.mean(axis=(0, 1)))
    assert [received[item.id].batch_size for item in items] == [4] * 4 + [2] * 2
    assert client.scard(redis_keys.claims("w1")) == 0
    assert float(client.get(QUEUE.rate_key) or 0) > 0


def test_one_bad_image_does_not_fail_the_others(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    good, bad = item_of(10), item_of(13)
    push(valkey, good, bad)
    batcher_of(client, network).run(QUEUE)
    received = replies(client)
    assert received[good.id].vector is not None
    assert received[bad.id].error is not None
    assert received[bad.id].error[0] == "internal_error"


@pytest.mark.parametrize(
    "failure", [MemoryError(), RuntimeError("Exception from src/inference: std::bad_alloc")]
)
def test_worker_without_memory_ends_and_leaves_its_images_to_another(
    valkey: RealValkey,
    client: redis.Redis,
    network: Mean,
    failure: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However long the first failure takes to be logged.
    monkeypatch.setattr(batcher_module, "_TURN_SECONDS", 60)

    def fails() -> None:
        raise failure

    network.during = fails
    first, again = item_of(10), replace(item_of(20), attempt=2)
    push(valkey, again)
    push(valkey, first)
    ended: list[bool] = []
    batcher = batcher_of(client, network, batch_limit=1, end=lambda: ended.append(True))
    with pytest.raises(OutOfMemoryError):
        batcher.run(QUEUE)
    assert ended == [True]
    (reply,) = replies(client).values()
    assert (reply.id, reply.error and reply.error[0]) == (again.id, "internal_error")
    assert client.smembers(redis_keys.claims("w1")) == {first.id}


def test_batch_too_large_for_the_memory_runs_image_by_image(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    def fails_together() -> None:
        if network.batches[-1] > 1:
            raise MemoryError

    network.during = fails_together
    push(valkey, *map(item_of, (10, 20, 30)))
    assert batcher_of(client, network).run(QUEUE) == 3
    assert all(reply.error is None for reply in replies(client).values())


def test_batches_and_failures_are_counted(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    statistics = InferenceStatistics()
    push(valkey, item_of(10), item_of(20), item_of(13))
    batcher_of(client, network, statistics=statistics).run(QUEUE)
    (counted,) = statistics.read()
    assert (counted.model, counted.version) == ("squeezenet", 1)
    assert (counted.images, counted.failed) == (2, 1)
    # The batch of three failed, and each image was run by itself.
    assert [(batch.size, batch.batches) for batch in counted.batches] == [(1, 2)]


def test_late_and_abandoned_images_are_dropped(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    late, abandoned, kept = item_of(1, seconds=-1), item_of(2), item_of(3)
    push(valkey, late, abandoned, kept)
    with_client(valkey, lambda s: s.abandon([abandoned.id], seconds=30))
    batcher_of(client, network).run(QUEUE)
    assert network.batches == [1]
    assert set(replies(client)) == {kept.id}
    assert client.scard(redis_keys.claims("w1")) == 0


def test_images_of_two_sizes_run_separately(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    push(valkey, item_of(1), item_of(2, side=3), item_of(3))
    assert batcher_of(client, network).run(QUEUE) == 3
    assert sorted(network.batches) == [1, 2]


def test_images_pushed_during_a_batch_form_the_next_batch(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    later = [item_of(7), item_of(8)]

    def arrive() -> None:
        network.during = lambda: None
        assert push(valkey, *later)[1], "the running task has cleared the scheduled key"

    network.during = arrive
    push(valkey, item_of(6))
    assert batcher_of(client, network).run(QUEUE) == 3
    assert network.batches == [1, 2]


def test_stopping_worker_answers_its_batch_and_schedules_the_rest(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    stopping = Event()
    network.during = stopping.set
    push(valkey, *[item_of(1)] * 6)
    forwarder = RecordingForwarder()
    batcher = batcher_of(client, network, forwarder=forwarder, stopping=stopping)
    assert batcher.run(QUEUE) == 4
    assert forwarder.scheduled == [QUEUE]
    assert client.llen(QUEUE.key) == 2


def test_scheduled_queue_ends_the_lingering(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    stopping = Event()
    stopping.set()
    forwarder = RecordingForwarder()
    batcher = batcher_of(client, network, forwarder=forwarder, linger_seconds=60, stopping=stopping)
    batcher.run(OTHER)
    stopping.clear()
    with_client(valkey, lambda s: s.push(OTHER, [item_of(1)], seconds=30))
    push(valkey, item_of(1))
    began = time.monotonic()
    assert batcher.run(QUEUE) == 1
    assert time.monotonic() - began < 30, "it does not linger while another queue waits"
    assert forwarder.scheduled == []


def test_turn_ends_under_endless_traffic(
    valkey: RealValkey, client: redis.Redis, network: Mean, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise jobs and queues behind it would never be reached."""
    monkeypatch.setattr(batcher_module, "_TURN_SECONDS", 1.0)
    forwarder = RecordingForwarder()
    batcher = batcher_of(client, network, forwarder=forwarder)

    def arrive() -> None:
        time.sleep(0.02)
        push(valkey, item_of(1))
        client.delete(QUEUE.scheduled_key)

    network.during = arrive
    push(valkey, item_of(1))
    began = time.monotonic()
    assert batcher.run(QUEUE) > 1
    assert time.monotonic() - began < 30
    assert forwarder.scheduled == [QUEUE]
    assert client.llen(QUEUE.key) == 1, "the next task takes the rest"


def test_faster_queues_are_run_if_scheduled(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    batcher = batcher_of(client, network)
    item = item_of(1)
    batcher.run_faster_queues()
    assert network.batches == []
    push(valkey, item)
    batcher.run_faster_queues()
    assert set(replies(client)) == {item.id}


def test_an_explanation_goes_on_while_redis_is_lost(
    valkey: RealValkey, client: redis.Redis, network: Mean, monkeypatch: pytest.MonkeyPatch
) -> None:
    explainer, lost = StubExplainer(), Mock(side_effect=redis.ConnectionError)

    def visit(run_faster: Callable[[], None]) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(WorkerQueues, "noted", lost)
            run_faster()

    explainer.during = visit
    batcher, item = batcher_of(client, network, explainer=explainer), item_of(1)
    slow = QueueName("squeezenet", 1, "explain")
    with_client(valkey, lambda s: s.push(slow, [item], seconds=30))
    batcher.run(slow)
    assert lost.called
    assert replies(client)[item.id].error is None


def test_visits_of_a_faster_queue_leave_one_task_of_it(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    """Its task waits for the slow operation to end; others' tasks would wait behind more."""
    forwarder = RecordingForwarder()
    batcher = batcher_of(client, network, forwarder=forwarder)
    tasks, items = 0, [item_of(1) for _ in range(20)]
    for item in items:
        result = with_client(valkey, lambda s, one=item: s.push(QUEUE, [one], seconds=60))
        tasks += result.must_schedule
        batcher.run_faster_queues()
    assert len(network.batches) == 20
    assert tasks + len(forwarder.scheduled) == 1
    assert 0 < client.pttl(QUEUE.scheduled_key) <= SCHEDULED_EXPIRE_MS

    batcher.run(QUEUE)  # the task
    assert with_client(valkey, lambda s: s.push(QUEUE, [item_of(1)], seconds=60)).must_schedule


def test_schedule_if_idle_notices_a_lost_task(valkey: RealValkey, client: redis.Redis) -> None:
    push(valkey, item_of(1))
    assert not with_client(valkey, lambda s: s.schedule_if_idle(QUEUE)), "one is scheduled"
    client.delete(QUEUE.scheduled_key)
    assert with_client(valkey, lambda s: s.schedule_if_idle(QUEUE))
    client.delete(QUEUE.key, QUEUE.scheduled_key)
    assert not with_client(valkey, lambda s: s.schedule_if_idle(QUEUE)), "nothing waits"


def test_claims_of_a_worker_are_readable(valkey: RealValkey, client: redis.Redis) -> None:
    items = [item_of(1), item_of(2)]
    push(valkey, *items)
    taken = WorkerQueues(client, "w1").take(QUEUE, 1)
    assert [item.id for item in taken] == [items[0].id]
    assert with_client(valkey, lambda s: s.claimed("w1")) == {items[0].id}


def test_waiting_images_expire(valkey: RealValkey, client: redis.Redis) -> None:
    with_client(valkey, lambda s: s.push(QUEUE, [item_of(1)], seconds=0.05))
    time.sleep(0.15)
    assert client.llen(QUEUE.key) == 0


PAST = QueueName("squeezenet", 7, "classify")


def push_to_past(valkey: RealValkey, *items: Item) -> None:
    with_client(valkey, lambda s: s.push(PAST, items, seconds=30))


def test_task_is_forwarded_to_a_worker_with_the_version(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    forwarder = RecordingForwarder(another_worker=True)
    batcher = batcher_of(client, network, forwarder=forwarder)
    push_to_past(valkey, item_of(1))
    assert batcher.run(PAST) == 0
    assert forwarder.forwarded == [PAST]
    assert client.llen(PAST.key) == 1, "the image waits for the other worker"
    assert client.exists(PAST.scheduled_key), "whose task is on its way"


def test_images_stay_while_no_worker_has_loaded_the_version(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    push_to_past(valkey, item_of(1))
    assert batcher_of(client, network).run(PAST) == 0
    assert client.llen(PAST.key) == 1
    assert with_client(valkey, lambda s: s.schedule_if_idle(PAST)), (
        "the next check sends another task"
    )


def test_images_of_a_version_without_alias_are_rejected(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    items = [item_of(value) for value in range(1, 7)]
    push_to_past(valkey, *items)
    batcher_of(client, network, store=Aliases(1)).run(PAST)
    received = replies(client)
    assert {reply.error[0] for reply in received.values() if reply.error} == {"model_not_ready"}
    assert set(received) == {item.id for item in items}
    assert client.scard(redis_keys.claims("w1")) == 0


def test_push_wakes_a_lingering_batcher(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    stopping = Event()
    network.during = lambda: stopping.set() if len(network.batches) == 2 else None
    batcher = batcher_of(client, network, linger_seconds=60.0, stopping=stopping)
    push(valkey, item_of(1))
    later = Thread(target=lambda: (time.sleep(0.1), push(valkey, item_of(2))))
    later.start()
    began = time.monotonic()
    assert batcher.run(QUEUE) == 2
    assert time.monotonic() - began < 30
    later.join()
    assert client.keys("*bell*") == []


def test_push_to_another_queue_ends_the_lingering(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    batcher = batcher_of(client, network, linger_seconds=60.0)

    def push_later() -> None:
        time.sleep(0.1)
        with_client(valkey, lambda s: s.push(OTHER, [item_of(2)], seconds=30))

    push(valkey, item_of(1))
    later = Thread(target=push_later)
    later.start()
    began = time.monotonic()
    assert batcher.run(QUEUE) == 1
    assert time.monotonic() - began < 30
    later.join()
    assert client.llen(OTHER.key) == 1


def test_stop_ends_the_lingering(valkey: RealValkey, client: redis.Redis, network: Mean) -> None:
    stopping = Event()
    batcher = batcher_of(client, network, linger_seconds=60.0, stopping=stopping)
    later = Timer(0.1, stopping.set)
    later.start()
    began = time.monotonic()
    assert batcher.run(QUEUE) == 0
    assert time.monotonic() - began < 30


def test_notify_key_holds_one_entry_and_expires(valkey: RealValkey, client: redis.Redis) -> None:
    notify_key = QUEUE.notify_key
    for value in range(3):
        push(valkey, item_of(value))
    assert client.llen(notify_key) == 1
    assert 0 < client.pttl(notify_key) <= redis_keys.NOTIFY_EXPIRE_MS
    assert len(WorkerQueues(client, "w1").take(QUEUE, 4)) == 3
    assert not client.exists(notify_key)


def test_abandoned_items_do_not_count_towards_the_batch(
    valkey: RealValkey, client: redis.Redis
) -> None:
    items = [item_of(value) for value in range(6)]
    push(valkey, *items)
    gone = [items[0].id, items[2].id]
    with_client(valkey, lambda s: s.abandon(gone, seconds=30))
    taken = WorkerQueues(client, "w1").take(QUEUE, 4)
    assert [item.id for item in taken] == [items[index].id for index in (1, 3, 4, 5)]
    assert client.smembers(redis_keys.claims("w1")) == {item.id for item in taken}
    assert not client.exists(*map(redis_keys.abandoned, gone))


@pytest.mark.parametrize("ahead", [4, 31, -31, 65])
def test_a_worker_whose_clock_differs_answers_until_the_deadline(
    client: redis.Redis, network: Mean, ahead: float
) -> None:
    api = RedisClock()
    worker = RedisClock(lambda: time.monotonic() + 9 * ahead, lambda: time.time() + ahead)
    for clock in (api, worker):
        clock.observe(clock.start(), client.time())
    pixels = np.full((2, 2, 3), 1, np.uint8)
    now = api()
    for seconds in (3, -3):
        item = Item(secrets.token_bytes(16), now + seconds, now, "replies:test", pixels)
        client.rpush(QUEUE.key, item.pack())
    assert batcher_of(client, network, clock=worker).run(QUEUE) == 1
    reply = Reply.unpack(client.lrange("replies:test", 0, -1)[0])  # type: ignore[index,arg-type]
    assert 0 <= reply.queue_seconds < 2


def test_an_image_that_seems_a_day_late_is_answered(client: redis.Redis, network: Mean) -> None:
    """The clock of Redis was set forward, and its sender had not measured it yet."""
    now, pixels = time.time(), np.full((2, 2, 3), 1, np.uint8)
    for seconds in (86_400, 30, -30):
        item = Item(secrets.token_bytes(16), now - seconds, now - 90_000, "replies:test", pixels)
        client.rpush(QUEUE.key, item.pack())
    assert batcher_of(client, network).run(QUEUE) == 2
    assert client.llen("replies:test") == 2


def test_a_batch_links_to_its_traced_requests(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    """And each of them gets its own part; the others' images are in the same batch."""
    contexts = [TraceContext(f"{n:032x}", f"{n:016x}", "01" if n < 3 else "00") for n in (1, 2, 3)]
    with collecting() as collector:
        start_tracing(Settings(_env_file=None, otlp_endpoint=collector.url), "worker")
        try:
            items = [
                replace(item_of(40), origin=Origin(f"r{n}", context))
                for n, context in enumerate(contexts)
            ]
            push(valkey, *items)
            batcher_of(client, network).run(QUEUE)
        finally:
            stop_tracing()
        assert network.batches == [3], "an origin does not keep images apart"
        batch = next(span for span in collector.spans if span.name == "batch classify")
        assert batch.links == tuple((one.trace_id, one.span_id) for one in contexts[:2])
        assert batch.attributes["opsin.images"] == 3
        parts = [span.name for span in collector.trace(batch.trace_id) if span != batch]
        assert sorted(parts) == ["reply", "run", "take"]
        for context in contexts[:2]:
            spans = {span.name: span for span in collector.trace(context.trace_id)}
            assert set(spans) == {"queue", "compute"}
            assert {span.parent_id for span in spans.values()} == {context.span_id}
            assert spans["compute"].links == ((batch.trace_id, batch.span_id),)
            assert spans["queue"].ended == spans["compute"].began
        assert collector.trace(contexts[2].trace_id) == []


def test_a_line_about_a_batch_names_its_requests(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    trace = TraceContext("a" * 32, "b" * 16, "00")
    bad = replace(item_of(13), origin=Origin("the-bad-one", trace))
    push(valkey, bad, replace(item_of(40), origin=Origin("the-good-one")))
    with structlog.testing.capture_logs(
        processors=[structlog.contextvars.merge_contextvars]
    ) as lines:
        batcher_of(client, network).run(QUEUE)
    whole, single = (line for line in lines if line["event"] == "batch_failed")
    served = {"model": "squeezenet", "version": 1, "operation": "classify"}
    assert whole.items() >= served.items()
    assert whole["request_ids"] == ["the-bad-one", "the-good-one"]
    assert whole["trace_ids"] == ["a" * 32]
    assert single.items() >= {"request_id": "the-bad-one", "trace_id": "a" * 32}.items()
