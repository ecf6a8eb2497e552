"""Which worker a task is forwarded to; the heartbeats and Celery are stand-ins."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from contracts.queue import redis_keys
from contracts.queue.heartbeat import HeldModel, WorkerBeat
from workers.inference.forwarding import TaskForwarder


def beat(worker: str, *versions: int) -> bytes:
    held = tuple(
        HeldModel(name="pets", version=number, state="ready", operations=("classify",))
        for number in versions
    )
    return (
        WorkerBeat(id=worker, host="h", pid=1, release="0", started_at=0, beat_at=0, models=held)
        .model_dump_json()
        .encode()
    )


BEATS = {
    redis_keys.heartbeat_key("w1"): beat("w1", 1, 2, 3),
    redis_keys.heartbeat_key("w2"): beat("w2", 1),
    redis_keys.heartbeat_key("w3"): beat("w3", 1, 2),
}


class Redis:
    def smembers(self, _name: str) -> list[bytes]:
        return [b"w1", b"w2", b"w3"]

    def mget(self, keys: list[str]) -> list[bytes]:
        return [BEATS[key] for key in keys]


@dataclass
class RecordingCelery:
    sent: list[tuple[list[str], str]] = field(default_factory=list)

    def send_task(self, _name: str, *, args: list[str], queue: str) -> None:
        self.sent.append((args, queue))


@pytest.mark.parametrize(("version", "expected"), [(2, "w3"), (None, "w2"), (3, None)])
def test_a_job_goes_to_another_worker_that_has_loaded_its_version(
    version: int | None, expected: str | None
) -> None:
    celery = RecordingCelery()
    forwarder = TaskForwarder(cast("Any", celery), cast("Any", Redis()), "w1")
    assert forwarder.forward_job("job_1", "pets", version) == (expected is not None)
    sent = [] if expected is None else [(["job_1", "pets"], redis_keys.own_queue(expected))]
    assert celery.sent == sent
