"""Queues of versions that share a base, on a real Valkey: pushed by the API, answered together."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np
import pytest
import redis
import redis.asyncio

from contracts.metrics.registry import Metrics
from contracts.queue import redis_keys
from contracts.queue.messages import Item, Reply
from contracts.queue.redis_keys import QueueGroup, QueueName
from contracts.settings import Settings
from contracts.tracing.origin import Origin, TraceContext
from contracts.tracing.spans import start_tracing, stop_tracing
from service.queue.admission import QueueLimits
from service.queue.client import PushResult, QueueClient
from tests.collector import collecting
from tests.valkey import RealValkey
from tests.workers.inference.heads import BROKEN_IMAGE, Head, MeanBase
from workers.inference.batcher import Batcher
from workers.inference.loaded_models import LoadedModels
from workers.inference.queue import WorkerQueues
from workers.inference.statistics import InferenceStatistics

T = TypeVar("T")
CELERY_QUEUE = redis_keys.inference_queue("trained")
GROUP = QueueGroup(f"inference.trained/{'ab' * 16}")
CATS, DOGS, BIRDS = (QueueName(name, 1, "classify") for name in ("cats", "dogs", "birds"))
OWN = QueueName("alone", 1, "classify")


@dataclass
class RecordingForwarder:
    """Records what would have been sent to Celery."""

    another_worker: bool = False
    scheduled: list[tuple[QueueName, QueueGroup | None]] = field(default_factory=list)
    forwarded: list[tuple[QueueName, QueueGroup | None]] = field(default_factory=list)

    def schedule(self, queue: QueueName, group: QueueGroup | None = None) -> None:
        self.scheduled.append((queue, group))

    def forward_batch(self, queue: QueueName, group: QueueGroup | None = None) -> bool:
        if self.another_worker:
            self.forwarded.append((queue, group))
        return self.another_worker


class NamedVersions:
    """A store in which an alias of every model points to version 1."""

    def aliases(self, _model: str) -> dict[str, int]:
        return {"champion": 1}


class Fleet:
    """Workers of one group, and the API's end of the queues."""

    def __init__(self, valkey: RealValkey) -> None:
        self.valkey = valkey
        self.client = valkey.client()
        self.base = MeanBase()
        self.statistics = InferenceStatistics()
        self.metrics = Metrics()
        self.forwarder = RecordingForwarder()
        self.models = {
            "cats": Head(self.base, 1),
            "dogs": Head(self.base, 2),
            "birds": Head(self.base, 3),
            "alone": Head(MeanBase("cd" * 32), 4),
        }

    def worker(self, worker_id: str = "w1", *, without: str = "", **changes: Any) -> Batcher:
        models = LoadedModels()
        for name, head in self.models.items():
            if name != without:
                models.add(name, head)
        options: dict[str, Any] = {"batch_limit": 4, "linger_seconds": 0.0}
        options |= {"stopping": Event(), "clock": time.time}
        return Batcher(
            WorkerQueues(self.client, worker_id, [CELERY_QUEUE]),
            models,
            NamedVersions(),  # type: ignore[arg-type]
            self.forwarder,  # type: ignore[arg-type]
            {},
            statistics=self.statistics,
            metrics=self.metrics,
            **(options | changes),
        )

    def api(self, use: Callable[[QueueClient], Coroutine[Any, Any, T]]) -> T:
        async def body() -> T:
            async with redis.asyncio.Redis.from_url(self.valkey.url) as connection:
                return await use(QueueClient(connection, QueueLimits(8)))

        return asyncio.run(body())

    def push(self, queue: QueueName, *items: Item, group: QueueGroup | None = GROUP) -> PushResult:
        return self.api(lambda s: s.push(queue, items, seconds=30, group=group))

    def replies(self) -> dict[bytes, Reply]:
        raws: Any = self.client.lrange("replies:test", 0, -1)
        return {reply.id: reply for reply in map(Reply.unpack, raws)}

    def counted(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of a counter, by their labels."""
        return {
            tuple(field.split("\x1f")[1:]): values[0]
            for field, values in self.metrics.read()["c"].items()
            if field.split("\x1f")[0] == name
        }

    def waiting(self, queue: QueueName) -> int:
        return int(self.client.llen(queue.key))

    def ready(self) -> list[str]:
        names: Any = self.client.zrange(GROUP.ready_key, 0, -1)
        return [QueueName.of_key(name.decode()).model for name in names]

    def claims(self, worker_id: str = "w1") -> int:
        return int(self.client.scard(redis_keys.claims(worker_id)))


@pytest.fixture
def fleet(valkey: RealValkey) -> Fleet:
    return Fleet(valkey)


def item_of(value: int, *, seconds: float = 30, side: int = 2) -> Item:
    now = time.time()
    pixels = np.full((side, side, 3), value, np.uint8)
    return Item(secrets.token_bytes(16), now + seconds, now, "replies:test", pixels)


def first(reply: Reply) -> float:
    assert reply.vector is not None, reply.error
    return float(reply.vector[0])


def test_images_of_several_models_run_in_one_batch(fleet: Fleet) -> None:
    embed = QueueName("cats", 1, "embed")
    items = {CATS: item_of(10), DOGS: item_of(20), BIRDS: item_of(30), embed: item_of(40)}
    for queue, item in items.items():
        fleet.push(queue, item)
    assert fleet.worker().run(CATS, GROUP) == 4
    assert fleet.base.batches == [4]
    received = fleet.replies()
    answers = {queue: first(received[item.id]) for queue, item in items.items()}
    assert answers == {CATS: 11, DOGS: 22, BIRDS: 33, embed: -41}
    assert {reply.batch_size for reply in received.values()} == {4}
    assert fleet.claims() == 0
    assert fleet.ready() == []
    assert all(float(fleet.client.get(queue.rate_key) or 0) > 0 for queue in items)


def test_one_task_is_sent_for_all_queues_of_a_group(fleet: Fleet) -> None:
    assert fleet.push(CATS, item_of(1)).must_schedule
    assert not fleet.push(DOGS, item_of(2)).must_schedule
    assert fleet.push(OWN, item_of(3), group=None).must_schedule
    assert fleet.worker().run(DOGS, GROUP) == 2
    assert fleet.push(DOGS, item_of(2)).must_schedule


def test_each_queue_has_its_own_limit(fleet: Fleet) -> None:
    fleet.push(CATS, *[item_of(1)] * 7)
    assert not fleet.push(CATS, *[item_of(1)] * 2).accepted
    assert fleet.push(DOGS, *[item_of(1)] * 8).accepted


def test_a_model_with_many_images_keeps_no_other_waiting(fleet: Fleet) -> None:
    many, one, two = [item_of(9)] * 6, item_of(20), item_of(30)
    fleet.push(CATS, *many)
    fleet.push(DOGS, one)
    fleet.push(BIRDS, two)
    stopping = Event()
    stopping.set()  # after one batch
    assert fleet.worker(stopping=stopping).run(CATS, GROUP) == 4
    assert {one.id, two.id} < set(fleet.replies())
    assert fleet.forwarder.scheduled == [(CATS, GROUP)]
    assert fleet.ready() == ["cats"]
    assert fleet.waiting(CATS) == 4
    assert 0 < fleet.client.pttl(GROUP.ready_key) <= redis_keys.READY_EXPIRE_MS


def test_queues_that_are_never_empty_take_turns(fleet: Fleet) -> None:
    """Each batch has room for one of two queues; the other one is first in the next."""
    order: list[str] = []
    worker = WorkerQueues(fleet.client, "w1")
    for queue in (CATS, DOGS, BIRDS):
        fleet.push(queue, *[item_of(1)] * 4)
    for _ in range(6):
        taken = worker.take_unless(GROUP, 2)
        assert taken is not None
        order += [one.queue.model for one in taken]
    assert order == ["cats", "dogs", "birds"] * 4


def test_one_bad_image_or_head_does_not_fail_the_others(fleet: Fleet) -> None:
    fleet.models["dogs"].plus = float("nan")
    good, bad, unlucky = item_of(10), item_of(BROKEN_IMAGE), item_of(20)
    fleet.push(CATS, good, bad)
    fleet.push(DOGS, unlucky)
    fleet.push(BIRDS, lucky := item_of(30))
    fleet.worker().run(CATS, GROUP)
    received = fleet.replies()
    assert first(received[good.id]) == 11
    assert first(received[lucky.id]) == 33
    for item in (bad, unlucky):
        assert received[item.id].error == ("internal_error", "The network failed on this image.")
    failed = {counted.model: counted.failed for counted in fleet.statistics.read()}
    assert failed == {"cats": 1, "dogs": 1, "birds": 0}


def test_a_head_that_fails_leaves_the_batch_of_the_others_whole(fleet: Fleet) -> None:
    fleet.models["dogs"].plus = float("nan")
    fleet.push(CATS, item_of(10))
    fleet.push(DOGS, item_of(20))
    fleet.push(BIRDS, item_of(30))
    fleet.worker().run(CATS, GROUP)
    assert fleet.base.batches == [3, 1], "only the image of the failed one runs again"


def test_late_and_abandoned_images_are_dropped(fleet: Fleet) -> None:
    late, abandoned, kept = item_of(1, seconds=-1), item_of(2), item_of(3)
    fleet.push(CATS, late, abandoned)
    fleet.push(DOGS, kept)
    fleet.api(lambda s: s.abandon([abandoned.id], seconds=30))
    fleet.worker().run(CATS, GROUP)
    assert set(fleet.replies()) == {kept.id}
    assert fleet.claims() == 0
    assert not fleet.client.exists(redis_keys.abandoned(abandoned.id))
    assert fleet.counted("dropped_images_total") == {
        ("cats", "1", "classify", "deadline_exceeded"): 1
    }


def test_an_image_that_several_models_were_asked_about_runs_once(fleet: Fleet) -> None:
    other = item_of(40)
    same = [replace(item_of(10), id=b"one image..." + bytes([0, 0, 0, n])) for n in range(3)]
    for queue, item in zip((CATS, DOGS, BIRDS), same, strict=True):
        fleet.push(queue, item)
    fleet.push(DOGS, other)
    assert fleet.worker().run(CATS, GROUP) == 4
    assert fleet.base.batches == [2]
    received = fleet.replies()
    assert [first(received[item.id]) for item in same] == [11, 12, 13]
    assert first(received[other.id]) == 42
    assert {reply.batch_size for reply in received.values()} == {2}


def test_images_of_two_sizes_run_separately(fleet: Fleet) -> None:
    fleet.push(CATS, item_of(1))
    fleet.push(DOGS, item_of(2, side=3))
    assert fleet.worker().run(CATS, GROUP) == 2
    assert fleet.base.batches == [1, 1]


def test_versions_of_another_base_run_separately(fleet: Fleet) -> None:
    """A worker that loaded one with another base after the API pushed still answers it."""
    fleet.push(CATS, item_of(1))
    fleet.push(OWN, item_of(2))
    assert fleet.worker().run(CATS, GROUP) == 2
    assert fleet.base.batches == [1]
    assert sorted(map(first, fleet.replies().values())) == [2, 6]


def test_what_is_counted_belongs_to_its_model(fleet: Fleet) -> None:
    fleet.push(CATS, item_of(10), item_of(11), item_of(12))
    fleet.push(DOGS, item_of(20))
    fleet.worker().run(CATS, GROUP)
    counted = {one.model: one for one in fleet.statistics.read()}
    assert {name: one.images for name, one in counted.items()} == {"cats": 3, "dogs": 1}
    assert [batch.size for batch in counted["cats"].batches] == [3]
    seconds = {name: one.batches[0].compute_seconds for name, one in counted.items()}
    assert seconds["cats"] == pytest.approx(3 * seconds["dogs"]), "each its part of the batch"
    executions = fleet.counted("executions_total")
    assert executions == {(name, "1", "classify"): 1 for name in ("cats", "dogs")}
    images = {labels[0]: count for labels, count in fleet.counted("computed_images_total").items()}
    assert images == {"cats": 3, "dogs": 1}


def test_images_of_a_version_that_is_not_loaded_go_back(fleet: Fleet) -> None:
    """As while a version is promoted, which the workers load one after the other."""
    items = [item_of(value) for value in range(20, 27)]
    fleet.push(DOGS, *items)
    fleet.push(CATS, mine := item_of(10))
    fleet.forwarder.another_worker = True
    partial = fleet.worker(without="dogs")
    assert partial.run(DOGS, GROUP) == 1, "the task names a queue that it does not have"
    assert set(fleet.replies()) == {mine.id}
    assert fleet.forwarder.forwarded == [(DOGS, None)], "it takes them only once"
    assert fleet.claims() == 0
    assert 0 < fleet.client.pttl(DOGS.key) <= 30_000
    assert fleet.worker("w2").run(DOGS) == 7
    raws: Any = fleet.client.lrange("replies:test", 1, -1)
    assert [Reply.unpack(raw).id for raw in raws] == [item.id for item in items], "in their order"
    assert {first(reply) for reply in fleet.replies().values()} == {11, *range(22, 29)}


def test_no_worker_answers_for_a_version_that_it_lacks(fleet: Fleet) -> None:
    fleet.push(DOGS, item_of(20))
    fleet.worker(without="dogs").run(CATS, GROUP)
    assert fleet.replies() == {}
    assert fleet.waiting(DOGS) == 1
    assert fleet.ready() == []
    assert fleet.api(lambda s: s.schedule_if_idle(DOGS, GROUP)), "the next check sends a task"
    assert fleet.ready() == ["dogs"]


def test_a_task_for_a_group_of_which_nothing_is_loaded_is_forwarded(fleet: Fleet) -> None:
    fleet.forwarder.another_worker = True
    fleet.push(CATS, item_of(1))
    fleet.models = {"alone": fleet.models["alone"]}
    assert fleet.worker().run(CATS, GROUP) == 0
    assert fleet.forwarder.forwarded == [(CATS, GROUP)]
    assert fleet.waiting(CATS) == 1


def test_lost_names_of_ready_queues_are_found_again(fleet: Fleet) -> None:
    fleet.push(CATS, item_of(1))
    fleet.push(DOGS, item_of(2))
    fleet.client.delete(GROUP.ready_key)
    assert fleet.worker().run(CATS, GROUP) == 0
    for queue in (CATS, DOGS):  # as the API's recovery does, whether or not a task is scheduled
        fleet.api(lambda s, queue=queue: s.schedule_if_idle(queue, GROUP))  # type: ignore[misc]
    assert fleet.worker().run(CATS, GROUP) == 2


def test_names_of_queues_that_expired_are_skipped(fleet: Fleet) -> None:
    fleet.push(CATS, item_of(1))
    fleet.push(DOGS, item_of(2))
    fleet.client.delete(CATS.key)
    assert fleet.worker().run(CATS, GROUP) == 1
    assert fleet.ready() == []


def test_images_that_an_earlier_api_pushes_are_answered(fleet: Fleet) -> None:
    """It knows no groups: its images have a task of their own."""
    fleet.push(CATS, item_of(1), group=None)
    fleet.push(CATS, item_of(2))
    fleet.push(DOGS, item_of(3))
    worker = fleet.worker()
    assert worker.run(CATS) == 2
    assert worker.run(CATS, GROUP) == 1
    assert len(fleet.replies()) == 3


def test_a_push_to_any_queue_of_the_group_wakes_a_lingering_worker(fleet: Fleet) -> None:
    fleet.push(CATS, item_of(1))
    later = Thread(target=lambda: (time.sleep(0.1), fleet.push(DOGS, item_of(2))))
    later.start()
    began = time.monotonic()
    stopping = Event()
    fleet.base.during = lambda: stopping.set() if len(fleet.base.batches) == 2 else None
    assert fleet.worker(linger_seconds=60.0, stopping=stopping).run(CATS, GROUP) == 2
    assert time.monotonic() - began < 30
    later.join()


def test_another_task_ends_the_lingering(fleet: Fleet) -> None:
    later = Thread(target=lambda: (time.sleep(0.1), fleet.push(OWN, item_of(2), group=None)))
    later.start()
    fleet.push(CATS, item_of(1))
    began = time.monotonic()
    assert fleet.worker(linger_seconds=60.0).run(CATS, GROUP) == 1
    assert time.monotonic() - began < 30
    later.join()
    assert fleet.waiting(OWN) == 1
    # And a group's task ends that of a queue; its own does not, and neither does a lost one.
    fleet.client.flushall()
    fleet.push(OWN, item_of(1), group=None)
    fleet.push(CATS, item_of(1))
    assert fleet.worker(linger_seconds=60.0).run(OWN) == 1
    assert time.monotonic() - began < 30


def test_a_task_that_has_begun_elsewhere_does_not_end_the_lingering(fleet: Fleet) -> None:
    fleet.push(OWN, item_of(1), group=None)
    fleet.client.delete(OWN.scheduled_key)  # by a worker of the release before
    queues = WorkerQueues(fleet.client, "w1", [CELERY_QUEUE])
    assert queues.take_unless(GROUP, 4) == []
    assert not fleet.client.exists(redis_keys.scheduled_in(CELERY_QUEUE))


def test_groups_are_run_between_the_steps_of_a_slow_operation(fleet: Fleet) -> None:
    fleet.push(CATS, item_of(1))
    fleet.push(DOGS, item_of(2))
    worker = fleet.worker()
    worker.run_faster_queues("explain")
    assert fleet.base.batches == [2]
    worker.run_faster_queues("explain")
    assert fleet.base.batches == [2]
    fleet.push(BIRDS, item_of(3))
    fleet.push(OWN, item_of(4), group=None)
    worker.run_faster_queues("explain")
    assert len(fleet.replies()) == 4, "what is noted is enough"


def test_what_an_earlier_api_sends_is_run_between_the_steps_too(fleet: Fleet) -> None:
    worker = fleet.worker()
    fleet.client.rpush(OWN.key, item_of(4).pack())
    fleet.client.set(OWN.scheduled_key, 1)  # and notes nothing else
    worker.run_faster_queues("explain")
    assert len(fleet.replies()) == 1


def test_a_batch_of_several_models_is_traced_for_each(fleet: Fleet) -> None:
    contexts = [TraceContext(f"{n:032x}", f"{n:016x}", "01") for n in (1, 2)]
    with collecting() as collector:
        start_tracing(Settings(_env_file=None, otlp_endpoint=collector.url), "worker")
        try:
            for queue, context in zip((CATS, DOGS), contexts, strict=True):
                now = time.time()
                pixels = np.full((2, 2, 3), 1, np.uint8)
                origin = Origin("r", context)
                item = Item(
                    secrets.token_bytes(16), now + 30, now, "replies:test", pixels, origin=origin
                )
                fleet.push(queue, item)
            fleet.worker().run(CATS, GROUP)
        finally:
            stop_tracing()
        for name, context in zip(("cats", "dogs"), contexts, strict=True):
            spans = {span.name: span for span in collector.trace(context.trace_id)}
            assert set(spans) == {"queue", "compute"}
            assert spans["compute"].attributes["opsin.model"] == name
            ((trace_id, _),) = spans["compute"].links
            batch = {span.name: span for span in collector.trace(trace_id)}
            assert set(batch) == {"batch classify", "take", "run", "reply"}
            assert batch["batch classify"].attributes["opsin.model"] == name


def test_a_version_that_is_dropped_while_a_task_begins_loses_no_image(fleet: Fleet) -> None:
    """By the thread that loads and evicts, between two lines of the thread that answers."""

    class Vanishing(LoadedModels):
        def get(self, model: str, version: int) -> Any:
            found = super().get(model, version)
            self.remove(model, version)
            return found

    models = Vanishing()
    models.add("cats", fleet.models["cats"])
    fleet.push(CATS, item_of(1), group=None)
    fleet.forwarder.another_worker = True
    worker = fleet.worker()
    worker._models = models
    assert worker.run(CATS) == 0
    assert fleet.waiting(CATS) == 1
    assert fleet.claims() == 0
    assert fleet.forwarder.forwarded == [(CATS, None)]


def test_images_whose_replies_cannot_be_sent_are_reported_as_lost(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = fleet.worker()
    image = item_of(1)
    fleet.push(CATS, image)
    with monkeypatch.context() as broken:

        def fail(*_: Any) -> None:
            raise redis.ConnectionError

        broken.setattr(worker._queues, "send_replies", fail)
        with pytest.raises(redis.ConnectionError):
            worker.run(CATS, GROUP)
    worker._queues.report_lost(fleet.client)
    assert not fleet.client.exists(redis_keys.lost_claims("w1"))
    worker._queues.report_lost(fleet.client)
    assert fleet.client.smembers(redis_keys.lost_claims("w1")) == {image.id}
    assert worker.run(CATS, GROUP) == 0
