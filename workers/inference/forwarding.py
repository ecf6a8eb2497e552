"""Work for a version that this worker does not hold: handed to one that does.

While a version is promoted, workers come to hold it one after the other, and Celery's queue of a
model is common to all of them. Who draws a task too early asks the beats and passes it on.
"""

from collections.abc import Callable
from typing import Any, cast

import redis
import structlog
from pydantic import ValidationError

from contracts.queue import redis_keys
from contracts.queue.heartbeat import WorkerBeat

log = structlog.get_logger()

Send = Callable[[str, list[Any], str], None]
"""Sends a Celery task: its name, its arguments, the queue."""


class Elsewhere:
    """Finds another worker for a task.

    Args:
        client: A connection whose answers are bytes.
        worker_id: Ours, which is not elsewhere.
        send: Sends a task.
    """

    def __init__(self, client: "redis.Redis", worker_id: str, send: Send) -> None:
        self._client = client
        self._worker_id = worker_id
        self._send = send

    def pass_on(self, task: str, args: list[Any], model: str, version: int | None) -> bool:
        """Send the task to a worker that holds the version, or any of the model.

        Returns:
            Whether there is one.
        """
        holder = self._holder(model, version)
        if holder is None:
            return False
        self._send(task, args, redis_keys.own_queue(holder))
        log.info("passed_on", task=task, model=model, version=version, to=holder)
        return True

    def _holder(self, model: str, version: int | None) -> str | None:
        members = cast(set[bytes], self._client.smembers(redis_keys.WORKERS))
        keys = [redis_keys.worker_beat(raw.decode()) for raw in members]
        for raw in cast(list[bytes | None], self._client.mget(keys) if keys else []):
            beat = _read(raw)
            if beat is None or beat.id == self._worker_id:
                continue
            held = beat.held(model)
            if held and (version is None or version in held):
                return beat.id
        return None


def _read(raw: bytes | None) -> WorkerBeat | None:
    if raw is None:
        return None
    try:
        return WorkerBeat.model_validate_json(raw)
    except ValidationError:
        return None  # of another release
