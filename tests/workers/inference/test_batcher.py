"""The lane on a real Valkey: what the API pushes, a drain answers."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from threading import Event, Thread, Timer
from typing import Any, TypeVar

import numpy as np
import pytest
import redis
import redis.asyncio

from contracts.errors import LayerNotFound
from contracts.inference.inference import LaneOperation, Operation
from contracts.queue import redis_keys
from contracts.queue.messages import Item, Pixels, Reply, Vector
from service.queue.admission import LaneLimits
from service.queue.client import Lanes as ServiceLanes
from tests.valkey import RealValkey
from workers.inference.batcher import Drain
from workers.inference.loaded_models import Held
from workers.inference.queue import Answer, LaneName, Lanes

LANE = LaneName("squeezenet", 1, "classify")
OTHER = LaneName("vgg16", 1, "classify")
T = TypeVar("T")


class Mean:
    """A network small enough to check by hand: the mean of each channel."""

    batch_sizes = (1, 2, 4, 8, 16)
    version = 1

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.during: Callable[[], object] = lambda: None

    def run(self, operation: Operation, images: Pixels) -> Vector:
        self.batches.append(len(images))
        self.during()
        if (images == 13).all(axis=(1, 2, 3)).any():
            raise ValueError("a picture that breaks the network")
        return images.mean(axis=(1, 2)).astype(np.float32)


class Reasons:
    """Explains a picture by its class, and notes who was explained together."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.during: Callable[[Callable[[], None]], object] = lambda give_way: None

    def __call__(
        self, lane: LaneName, predictor: Any, items: Sequence[Item], give_way: Callable[[], None]
    ) -> list[Answer]:
        self.batches.append((lane.operation, [item.class_index for item in items]))
        if any(item.note == b"no such layer" for item in items):
            raise LayerNotFound("There is no such layer. Choose another.")
        self.during(give_way)
        return [Answer(np.full(4, item.class_index, np.float32), b"told") for item in items]


@pytest.fixture
def client(valkey: RealValkey) -> redis.Redis:
    return redis.Redis.from_url(valkey.url)


@pytest.fixture
def network() -> Mean:
    return Mean()


def answerers(reasons: Reasons) -> dict[LaneOperation, Reasons]:
    return {"heatmap": reasons, "explain": reasons, "study": reasons}


def drain_of(client: redis.Redis, network: Mean, **changes: Any) -> tuple[Drain, list[LaneName]]:
    sent: list[LaneName] = []
    options: dict[str, Any] = {
        "batch_limit": 4,
        "linger_seconds": 0.01,
        "stopping": Event(),
        "schedule": sent.append,
        "pass_on": lambda lane: False,
        "is_past": lambda lane: False,
        "answerers": answerers(Reasons()),
    } | changes
    held = Held()
    held.put("squeezenet", network)
    held.put("vgg16", network)
    return Drain(Lanes(client, "w1"), held, **options), sent


def item_of(value: int, *, seconds: float = 30, side: int = 2) -> Item:
    now = time.time()
    pixels = np.full((side, side, 3), value, np.uint8)
    return Item(secrets.token_bytes(16), now + seconds, now, "replies:test", pixels)


def with_lanes(valkey: RealValkey, use: Callable[[ServiceLanes], Coroutine[Any, Any, T]]) -> T:
    async def body() -> T:
        async with redis.asyncio.Redis.from_url(valkey.url) as connection:
            return await use(ServiceLanes(connection, LaneLimits(8)))

    return asyncio.run(body())


def push(valkey: RealValkey, *items: Item, again: bool = False) -> tuple[bool, bool, int]:
    result = with_lanes(valkey, lambda s: s.push(LANE.key, items, seconds=30, again=again))
    return result.accepted, result.schedule, result.depth


def replies(client: redis.Redis) -> dict[bytes, Reply]:
    return {r.id: r for r in map(Reply.unpack, client.lrange("replies:test", 0, -1))}


def test_only_the_first_push_schedules_a_drain(valkey: RealValkey) -> None:
    assert push(valkey, item_of(1)) == (True, True, 1)
    assert push(valkey, item_of(2)) == (True, False, 2)


def test_a_full_lane_takes_all_or_none(valkey: RealValkey, client: redis.Redis) -> None:
    push(valkey, *[item_of(1)] * 6)
    assert push(valkey, *[item_of(1)] * 3) == (False, False, 6)
    assert client.llen(LANE.key) == 6
    assert push(valkey, *[item_of(1)] * 2)[0]
    assert push(valkey, item_of(1), again=True)[0], "what was admitted before is not refused"


def test_a_request_larger_than_the_limit_is_possible_when_idle(valkey: RealValkey) -> None:
    assert push(valkey, *[item_of(1)] * 9)[0]


def test_everybody_gets_their_own_answer(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    items = [item_of(value) for value in (10, 20, 30, 40, 50, 60)]
    push(valkey, *items)
    drain, _ = drain_of(client, network)
    assert drain(LANE) == 6
    assert network.batches == [4, 2]
    found = replies(client)
    for item in items:
        vector = found[item.id].vector
        assert vector is not None
        np.testing.assert_allclose(vector, item.pixels.mean(axis=(0, 1)))
    assert [found[item.id].batch_size for item in items] == [4] * 4 + [2] * 2
    assert client.scard(redis_keys.claims("w1")) == 0
    assert float(client.get(redis_keys.lane_rate(LANE.key)) or 0) > 0


def test_one_fault_does_not_fail_its_neighbours(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    good, bad = item_of(10), item_of(13)
    push(valkey, good, bad)
    drain_of(client, network)[0](LANE)
    found = replies(client)
    assert found[good.id].vector is not None
    assert found[bad.id].error is not None
    assert found[bad.id].error[0] == "internal_error"


def test_late_and_abandoned_images_are_not_computed(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    late, gone, kept = item_of(1, seconds=-1), item_of(2), item_of(3)
    push(valkey, late, gone, kept)
    with_lanes(valkey, lambda s: s.abandon([gone.id], seconds=30))
    drain_of(client, network)[0](LANE)
    assert network.batches == [1]
    assert set(replies(client)) == {kept.id}
    assert client.scard(redis_keys.claims("w1")) == 0


def test_pictures_of_two_sizes_never_share_an_array(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    push(valkey, item_of(1), item_of(2, side=3), item_of(3))
    assert drain_of(client, network)[0](LANE) == 3
    assert sorted(network.batches) == [1, 2]


def test_what_arrives_while_it_computes_goes_into_the_next_batch(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    later = [item_of(7), item_of(8)]

    def arrive() -> None:
        network.during = lambda: None
        assert push(valkey, *later)[1], "a drain under way has cleared the flag"

    network.during = arrive
    push(valkey, item_of(6))
    assert drain_of(client, network)[0](LANE) == 3
    assert network.batches == [1, 2]


def test_a_stopping_worker_answers_what_it_holds_and_passes_on_the_rest(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    stopping = Event()
    network.during = stopping.set
    push(valkey, *[item_of(1)] * 6)
    drain, sent = drain_of(client, network, stopping=stopping)
    assert drain(LANE) == 4
    assert sent == [LANE]
    assert client.llen(LANE.key) == 2


def test_another_lane_gets_its_turn(valkey: RealValkey, client: redis.Redis, network: Mean) -> None:
    stopping = Event()
    stopping.set()
    drain, sent = drain_of(client, network, linger_seconds=5, stopping=stopping)
    drain(OTHER)
    stopping.clear()
    client.set(OTHER.flag, 1)
    push(valkey, item_of(1))
    began = time.monotonic()
    assert drain(LANE) == 1
    assert time.monotonic() - began < 10, "it lingers for nobody while another lane waits"
    assert sent == []


def test_endless_traffic_ends_its_turn(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    """Or jobs and lanes that stand behind it in the queue would never be reached."""
    drain, sent = drain_of(client, network)

    def arrive() -> None:
        time.sleep(0.02)
        push(valkey, item_of(1))
        client.delete(LANE.flag)

    network.during = arrive
    push(valkey, item_of(1))
    began = time.monotonic()
    assert drain(LANE) > 1
    assert time.monotonic() - began < 10
    assert sent == [LANE]
    assert client.llen(LANE.key) == 1, "the rest is the next task's"


def test_relief_drains_the_lanes_that_wait(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    drain, _ = drain_of(client, network)
    item = item_of(1)
    drain.relieve()
    assert network.batches == []
    push(valkey, item)
    drain.relieve()
    assert set(replies(client)) == {item.id}


def test_a_lost_drain_is_noticed(valkey: RealValkey, client: redis.Redis) -> None:
    push(valkey, item_of(1))
    assert not with_lanes(valkey, lambda s: s.nudge(LANE.key)), "one is on its way"
    client.delete(LANE.flag)
    assert with_lanes(valkey, lambda s: s.nudge(LANE.key))
    client.delete(LANE.key, LANE.flag)
    assert not with_lanes(valkey, lambda s: s.nudge(LANE.key)), "nothing waits"


def test_a_dead_worker_leaves_its_claims(valkey: RealValkey, client: redis.Redis) -> None:
    items = [item_of(1), item_of(2)]
    push(valkey, *items)
    taken = Lanes(client, "w1").take(LANE, 1)
    assert [item.id for item in taken] == [items[0].id]
    assert with_lanes(valkey, lambda s: s.claimed("w1")) == {items[0].id}


def test_waiting_images_vanish_when_nobody_comes(valkey: RealValkey, client: redis.Redis) -> None:
    with_lanes(valkey, lambda s: s.push(LANE.key, [item_of(1)], seconds=0.05))
    time.sleep(0.15)
    assert client.llen(LANE.key) == 0


PAST = LaneName("squeezenet", 7, "classify")


def push_to_past(valkey: RealValkey, *items: Item) -> None:
    with_lanes(valkey, lambda s: s.push(PAST.key, items, seconds=30))


def test_a_version_held_elsewhere_is_left_to_its_worker(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    passed: list[LaneName] = []
    drain, _ = drain_of(client, network, pass_on=lambda lane: not passed.append(lane))
    push_to_past(valkey, item_of(1))
    assert drain(PAST) == 0
    assert passed == [PAST]
    assert client.llen(PAST.key) == 1, "the image waits for the other worker"
    assert client.exists(PAST.flag), "whose drain is on its way"


def test_a_version_nobody_holds_yet_keeps_its_images(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    push_to_past(valkey, item_of(1))
    assert drain_of(client, network)[0](PAST) == 0
    assert client.llen(PAST.key) == 1
    assert with_lanes(valkey, lambda s: s.nudge(PAST.key)), "the next look sends another drain"


def test_images_of_a_version_that_is_past_are_told_at_once(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    items = [item_of(value) for value in range(1, 7)]
    push_to_past(valkey, *items)
    drain_of(client, network, is_past=lambda lane: True)[0](PAST)
    found = replies(client)
    assert {reply.error[0] for reply in found.values() if reply.error} == {"model_not_ready"}
    assert set(found) == {item.id for item in items}
    assert client.scard(redis_keys.claims("w1")) == 0


def reason_of(class_index: int, note: bytes = b"grad_cam") -> Item:
    return replace(item_of(1), class_index=class_index, note=note)


def push_reasons(valkey: RealValkey, operation: LaneOperation, *items: Item) -> LaneName:
    lane = LaneName("squeezenet", 1, operation)
    with_lanes(valkey, lambda s: s.push(lane.key, items, seconds=30))
    return lane


def test_mixed_classes_share_a_batch_and_each_gets_its_own(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    reasons = Reasons()
    items = [reason_of(3), reason_of(281), reason_of(-1), reason_of(5, b"hires_cam")]
    lane = push_reasons(valkey, "heatmap", *items)
    drain_of(client, network, answerers=answerers(reasons))[0](lane)
    assert reasons.batches == [("heatmap", [3, 281, -1]), ("heatmap", [5])]
    found = replies(client)
    for item in items:
        vector = found[item.id].vector
        assert vector is not None
        assert vector.tolist() == [item.class_index] * 4
        assert found[item.id].note == b"told"


def test_a_wrong_layer_is_told_as_such_and_to_nobody_else(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    good, bad = reason_of(1), reason_of(1, b"no such layer")
    drain_of(client, network)[0](push_reasons(valkey, "explain", good, bad))
    found = replies(client)
    assert found[good.id].vector is not None
    assert (found[bad.id].error or ("",))[0] == "layer_not_found"


def test_a_study_is_taken_alone_and_lets_the_quick_go_first(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    reasons, quick = Reasons(), item_of(9)
    lane = push_reasons(valkey, "study", reason_of(1), reason_of(2))
    taken: list[int] = []

    def during(give_way: Callable[[], None]) -> None:
        taken.append(client.llen(lane.key))
        push(valkey, quick)
        give_way()
        assert quick.id in replies(client), "answered in the middle of the study"
        reasons.during = lambda _: None

    reasons.during = during
    drain_of(client, network, answerers=answerers(reasons))[0](lane)
    assert taken == [1], "the other one may be another worker's"
    assert reasons.batches == [("study", [1]), ("study", [2])]


def test_a_study_gives_way_to_no_other_study(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    reasons = Reasons()
    lane = push_reasons(valkey, "study", reason_of(1), reason_of(2))
    reasons.during = lambda give_way: (client.set(lane.flag, 1), give_way())
    drain_of(client, network, answerers=answerers(reasons))[0](lane)
    assert reasons.batches == [("study", [1]), ("study", [2])], "one after the other"


def test_a_lingering_drain_is_woken_by_a_push(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    drain, _ = drain_of(client, network, linger_seconds=1.0)
    push(valkey, item_of(1))
    later = Thread(target=lambda: (time.sleep(0.1), push(valkey, item_of(2))))
    later.start()
    began = time.monotonic()
    assert drain(LANE) == 2
    assert time.monotonic() - began < 3
    later.join()
    assert client.keys("*:bell") == []


def test_a_push_to_another_lane_ends_the_lingering(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    drain, _ = drain_of(client, network, linger_seconds=5.0)

    def ring() -> None:
        time.sleep(0.1)
        with_lanes(valkey, lambda s: s.push(OTHER.key, [item_of(2)], seconds=30))

    push(valkey, item_of(1))
    later = Thread(target=ring)
    later.start()
    began = time.monotonic()
    assert drain(LANE) == 1
    assert time.monotonic() - began < 3
    later.join()
    assert client.llen(OTHER.key) == 1


def test_a_stop_ends_the_lingering(valkey: RealValkey, client: redis.Redis, network: Mean) -> None:
    stopping = Event()
    drain, _ = drain_of(client, network, linger_seconds=5.0, stopping=stopping)
    later = Timer(0.1, stopping.set)
    later.start()
    began = time.monotonic()
    assert drain(LANE) == 0
    assert time.monotonic() - began < 3


def test_bells_do_not_pile_up(valkey: RealValkey, client: redis.Redis) -> None:
    bell = redis_keys.lane_bell(LANE.key)
    for value in range(3):
        push(valkey, item_of(value))
    assert client.llen(bell) == 1
    assert 0 < client.pttl(bell) <= redis_keys.BELL_EXPIRE_MS
    assert len(Lanes(client, "w1").take(LANE, 4)) == 3
    assert not client.exists(bell)


def test_those_who_left_do_not_take_the_places_of_others(
    valkey: RealValkey, client: redis.Redis
) -> None:
    items = [item_of(value) for value in range(6)]
    push(valkey, *items)
    gone = [items[0].id, items[2].id]
    with_lanes(valkey, lambda s: s.abandon(gone, seconds=30))
    taken = Lanes(client, "w1").take(LANE, 4)
    assert [item.id for item in taken] == [items[at].id for at in (1, 3, 4, 5)]
    assert client.smembers(redis_keys.claims("w1")) == {item.id for item in taken}
    assert not client.exists(*map(redis_keys.abandoned, gone))
