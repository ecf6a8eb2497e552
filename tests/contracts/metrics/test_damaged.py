"""Snapshots that another release, a fault or somebody else has written to Redis."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from contracts.metrics.exposition import Merged, exposition
from contracts.metrics.publishing import (
    FOLD,
    FOLD_ARGS,
    FOLD_KEYS,
    PUBLISH,
    RETAINED,
    SNAPSHOTS,
    Snapshots,
    alive_key,
    parse_fold,
)
from contracts.metrics.registry import Metrics, Values, field_of
from tests.valkey import RealValkey

QUEUE = ("squeezenet", "1", "classify")
EXECUTIONS = field_of("executions_total", QUEUE)
WHOLE: dict[str, Any] = {
    "seq": 3,
    "kind": "worker",
    "host": "h",
    "process": "odd",
    "c": {EXECUTIONS: [1]},
    "g": {},
    "p": {},
}
UNREADABLE = [
    *("", "{", "null", "[]", "3", '"text"', "[" * 2000, "\\xff"),
    json.dumps(WHOLE | {"seq": "x", "kind": 3}),
    json.dumps({name: value for name, value in WHOLE.items() if name in {"c", "g"}}),
]
ODD_SERIES: list[Any] = [
    *(None, 3, "x", [], {}, [None], ["1"], [[1]], [True], [1, 2, 3]),
    *([float("nan")], [float("inf")], [{"a": 1}], [1e400]),
]


@pytest.fixture
def client(valkey: RealValkey) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey.url) as client:
        metrics = Metrics()
        metrics.inc("executions_total", *QUEUE, by=5)
        snapshots = Snapshots(metrics, "good", "worker", "here")
        client.register_script(PUBLISH)(keys=snapshots.keys, args=snapshots.next_args())
        yield client


def write(client: "redis.Redis", content: str, *, alive: bool) -> None:
    client.hset(SNAPSHOTS, "odd.0", content)
    if alive:
        client.set(alive_key("odd.0"), "1")


def read(client: "redis.Redis") -> Values:
    """As the API does, to the text; twice, since the first time adds up what is dead."""
    for _ in range(2):
        answer = client.register_script(FOLD)(keys=FOLD_KEYS, args=FOLD_ARGS)
        snapshots, retained = parse_fold(answer)
        merged = Merged()
        merged.add_all(snapshots, retained)
        for accept in ("", "application/openmetrics-text"):
            exposition(merged.families(lambda *_: True), accept)
    return merged.values


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("content", UNREADABLE)
def test_a_snapshot_that_cannot_be_read_hides_no_other(
    client: "redis.Redis", content: str, alive: bool
) -> None:
    write(client, content, alive=alive)
    assert read(client)[EXECUTIONS] == [5]
    assert client.hexists(SNAPSHOTS, "odd.0") == alive, "what is dead is removed"


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("series", ODD_SERIES, ids=str)
def test_a_series_that_cannot_be_read_hides_no_other(
    client: "redis.Redis", series: Any, alive: bool
) -> None:
    other = field_of("dropped_images_total", (*QUEUE, "x"))
    odd = WHOLE | {"c": {EXECUTIONS: series, other: [2], "": [1], "unknown_total": [1]}}
    write(client, json.dumps(odd | {"g": {"x": series}, "p": {"y": series}}), alive=alive)
    values = read(client)
    assert (values[EXECUTIONS], values[other]) == ([5], [2])


@pytest.mark.parametrize("kept", ["", "{", "null", '["x"]', "[1,2]", "[nan]"])
def test_a_retained_series_that_cannot_be_read_begins_again(
    client: "redis.Redis", kept: str
) -> None:
    client.hset(RETAINED, EXECUTIONS, kept)
    client.hset(RETAINED, b"\xff\xfe", "[1]")
    assert read(client)[EXECUTIONS] == [5]
    client.delete(alive_key("good.0"))
    assert read(client)[EXECUTIONS] == [5]


def test_what_a_newer_release_adds_is_ignored(client: "redis.Redis") -> None:
    newer = WHOLE | {"c": {EXECUTIONS: [1], "later_total": [7]}, "d": {"x": 1}}
    write(client, json.dumps(newer), alive=True)
    values = read(client)
    assert values[EXECUTIONS] == [6]
    assert "later_total" not in values
