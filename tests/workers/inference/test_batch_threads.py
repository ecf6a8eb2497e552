"""Several threads answer batches at once."""

import time
from threading import Barrier, Event, Thread, current_thread
from typing import Any

import pytest
import redis
import redis.asyncio
import structlog

from contracts.queue import redis_keys
from tests.valkey import RealValkey
from tests.workers.inference.queueing import QUEUE, Mean, batcher_of, item_of, push, replies
from workers.inference.batch_threads import BatchThreads


class Overlapping(Mean):
    """Two batches run at once, or the first one fails."""

    batch_threads = 2

    def __init__(self) -> None:
        super().__init__()
        self.together = Barrier(2)
        self.during = lambda: self.together.wait(60)


def test_second_thread_computes_the_next_batch_meanwhile(
    valkey: RealValkey, client: redis.Redis
) -> None:
    items = [item_of(value) for value in (10, 20, 30, 40, 50, 60, 70, 80)]
    push(valkey, *items)
    network, stopping = Overlapping(), Event()
    batcher = batcher_of(client, network, stopping=stopping)
    batcher.run(QUEUE)
    stopping.set()
    batcher.close()
    received = replies(client)
    assert network.batches == [4, 4]
    assert [received[item.id].vector[0] for item in items] == [10, 20, 30, 40, 50, 60, 70, 80]  # type: ignore[index]
    assert client.scard(redis_keys.claims("w1")) == 0
    assert batcher.idle_seconds > 0


def test_batch_that_is_not_full_leaves_the_second_thread_alone(
    valkey: RealValkey, client: redis.Redis
) -> None:
    network, main = Overlapping(), current_thread()
    threads: list[Thread] = []
    network.during = lambda: threads.append(current_thread())
    push(valkey, *map(item_of, (10, 20, 30)))
    batcher = batcher_of(client, network)
    assert batcher.run(QUEUE) == 3
    assert threads == [main]


def test_images_that_come_later_are_answered_while_the_first_batch_is_computed(
    valkey: RealValkey, client: redis.Redis
) -> None:
    network, main = Overlapping(), current_thread()
    early, late = [[item_of(value) for value in range(at, at + 4)] for at in (20, 30)]
    computed, meanwhile = Event(), list[bool]()

    def during() -> None:
        if current_thread() is main:
            time.sleep(0.2)  # in which the other thread finds nothing
            push(valkey, *late)
            meanwhile.append(computed.wait(10))
        else:
            computed.set()

    network.during = during
    push(valkey, *early)
    assert batcher_of(client, network, linger_seconds=5).run(QUEUE) == 4
    assert meanwhile == [True]


def test_four_threads_compute_four_batches_at_once(valkey: RealValkey, client: redis.Redis) -> None:
    network, stopping = Overlapping(), Event()
    network.batch_threads, network.batch_limit = 4, 2
    network.together = Barrier(4)
    items = [item_of(value) for value in range(20, 28)]
    push(valkey, *items)
    batcher = batcher_of(client, network, threads=4, stopping=stopping)
    batcher.run(QUEUE)
    stopping.set()
    batcher.close()
    assert network.batches == [2, 2, 2, 2]
    assert replies(client).keys() == {item.id for item in items}


@pytest.mark.parametrize("limit", [1, 4])
def test_version_that_computes_one_batch_at_a_time_has_one_thread(
    valkey: RealValkey, client: redis.Redis, network: Mean, limit: int
) -> None:
    threads: list[Thread] = []
    network.during = lambda: threads.append(current_thread())
    push(valkey, *map(item_of, range(20, 28)))
    assert batcher_of(client, network, batch_limit=limit).run(QUEUE) == 8
    assert set(threads) == {current_thread()}


def test_worker_that_stops_answers_what_its_second_thread_has_taken(
    valkey: RealValkey, client: redis.Redis
) -> None:
    network, stopping, main = Overlapping(), Event(), current_thread()

    def during() -> None:
        network.together.wait(60)
        if current_thread() is not main:
            stopping.wait(60)
            time.sleep(0.3)

    network.during = during
    items = [item_of(value) for value in range(20, 32)]
    push(valkey, *items[:8])
    batcher = batcher_of(client, network, stopping=stopping)
    batcher.run(QUEUE)
    push(valkey, *items[8:])
    stopping.set()
    batcher.close()
    assert replies(client).keys() == {item.id for item in items[:8]}
    assert client.llen(QUEUE.key) == 4, "what was not taken is left to another worker"


def test_failure_in_the_second_thread_is_logged_and_the_next_batch_is_answered(
    valkey: RealValkey, client: redis.Redis
) -> None:
    network, main = Overlapping(), current_thread()
    batcher = batcher_of(client, network)
    send = batcher._queues.send_replies

    def fails_once(*args: Any) -> None:
        if current_thread() is not main:
            raise redis.ConnectionError("gone")
        send(*args)

    batcher._queues.send_replies = fails_once  # type: ignore[method-assign]
    first, second, third = (
        [item_of(value) for value in range(start, start + 4)] for start in (20, 30, 40)
    )
    push(valkey, *first, *second)
    with structlog.testing.capture_logs() as logs:
        batcher.run(QUEUE)
        batcher.close()
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["batch_thread_failed"]
    batcher._queues.send_replies = send  # type: ignore[method-assign]
    network.during = lambda: None
    batcher._threads = BatchThreads(1)
    push(valkey, *third)
    assert batcher.run(QUEUE) == 4
    assert {item.id for item in third} <= replies(client).keys()


def test_two_batches_at_once_do_not_halve_the_rate(valkey: RealValkey, client: redis.Redis) -> None:
    network, stopping = Overlapping(), Event()

    def during() -> None:
        network.together.wait(60)
        time.sleep(1)

    network.during = during
    push(valkey, *map(item_of, range(20, 28)))
    batcher = batcher_of(client, network, stopping=stopping)
    batcher.run(QUEUE)
    stopping.set()
    batcher.close()
    rate = client.get(QUEUE.rate_key)
    assert rate is not None
    seconds = [reply.compute_seconds for reply in replies(client).values()]
    # Of two threads that each answer four images in that time.
    assert 0.8 * 8 / max(seconds) < float(rate) < 1.1 * 8 / min(seconds)
