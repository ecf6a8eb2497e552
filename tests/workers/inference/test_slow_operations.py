"""Explanations and studies in the batcher, and what is answered in the middle of them."""

from collections.abc import Callable
from dataclasses import replace

import redis
import redis.asyncio

from contracts.inference.inference import Operation
from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from tests.valkey import RealValkey
from tests.workers.inference.queueing import (
    Mean,
    StubExplainer,
    batcher_of,
    item_of,
    push,
    replies,
    with_client,
)


def explain_item(class_index: int, note: bytes = b"grad_cam") -> Item:
    return replace(item_of(1), class_index=class_index, note=note)


def push_explain(valkey: RealValkey, operation: Operation, *items: Item) -> QueueName:
    queue = QueueName("squeezenet", 1, operation)
    with_client(valkey, lambda s: s.push(queue, items, seconds=30))
    return queue


def test_items_of_different_classes_share_a_batch(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    explainer = StubExplainer()
    items = [explain_item(3), explain_item(281), explain_item(-1), explain_item(5, b"hires_cam")]
    queue = push_explain(valkey, "heatmap", *items)
    batcher_of(client, network, explainer=explainer).run(queue)
    assert explainer.batches == [("heatmap", [3, 281, -1]), ("heatmap", [5])]
    received = replies(client)
    for item in items:
        vector = received[item.id].vector
        assert vector is not None
        assert vector.tolist() == [item.class_index] * 4
        assert received[item.id].note == b"a note"


def test_unknown_layer_fails_only_its_own_item(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    good, bad = explain_item(1), explain_item(1, b"no such layer")
    batcher_of(client, network).run(push_explain(valkey, "explain", good, bad))
    received = replies(client)
    assert received[good.id].vector is not None
    assert (received[bad.id].error or ("",))[0] == "layer_not_found"


def test_study_runs_alone_and_yields_to_faster_queues(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    explainer, quick = StubExplainer(), item_of(9)
    queue = push_explain(valkey, "study", explain_item(1), explain_item(2))
    taken: list[int] = []

    def during(run_faster: Callable[[], None]) -> None:
        taken.append(client.llen(queue.key))
        push(valkey, quick)
        run_faster()
        assert quick.id in replies(client), "answered in the middle of the study"
        explainer.during = lambda _: None

    explainer.during = during
    batcher_of(client, network, explainer=explainer).run(queue)
    assert taken == [1], "another worker may take the other one"
    assert explainer.batches == [("study", [1]), ("study", [2])]


def test_study_does_not_yield_to_another_study(
    valkey: RealValkey, client: redis.Redis, network: Mean
) -> None:
    explainer = StubExplainer()
    queue = push_explain(valkey, "study", explain_item(1), explain_item(2))
    explainer.during = lambda run_faster: (client.set(queue.scheduled_key, 1), run_faster())
    batcher_of(client, network, explainer=explainer).run(queue)
    assert explainer.batches == [("study", [1]), ("study", [2])], "one after the other"
