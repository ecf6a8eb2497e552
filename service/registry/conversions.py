"""Converts versions to other formats on request, by a worker.

The API loads no TensorFlow, so it cannot convert. The first request sends the task and waits until
its deadline; if that is too short, a later request finds the file.
"""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

from celery import Celery
from redis.asyncio import Redis

from contracts.errors import ModelNotReady, NoWorker, error_of
from contracts.queue import redis_keys
from models.store.derived import DerivedFormat, check_convertible, derived_path
from models.store.store import Store
from service.queue.faults import redis_required
from service.queue.workers import WorkerRegistry
from service.threads import run_in_threadpool

_POLL_SECONDS = 0.2
_QUEUED_SECONDS = 30
_RETRY_SECONDS = 10.0


class ConversionClient:
    """Sends conversions to the workers and waits for their files.

    Args:
        store: Where the files appear.
        client: A connection whose answers are bytes.
        celery: To send tasks with.
    """

    def __init__(
        self, store: Store, client: Redis, celery: Celery, workers: WorkerRegistry
    ) -> None:
        self._store = store
        self._client = client
        self._celery = celery
        self._workers = workers

    async def until_made(
        self, model: str, version: int, kind: DerivedFormat, *, seconds: float
    ) -> None:
        """Wait until the file exists.

        Args:
            model: Name of the model.
            version: Its version.
            kind: The format.
            seconds: Maximum wait.

        Raises:
            VersionNotFound: The model has no such version.
            ValidationFailed: It has no classifier to convert.
            NoWorker: No worker is running.
            ModelNotReady: It is still being converted; retry later.
            Unavailable: Redis does not answer.
            OpsinError: The conversion failed; as `models.store.derived.convert`.
        """
        path = await run_in_threadpool(derived_path, self._store, model, version, kind)
        manifest = await run_in_threadpool(self._store.manifest, model, version)
        check_convertible(manifest, kind)
        until = time.monotonic() + seconds
        while not await run_in_threadpool(path.is_file):
            with redis_required():
                await self._request(model, version, kind)
            if time.monotonic() + _POLL_SECONDS > until:
                raise ModelNotReady(
                    f"'{model}' version {version} is being converted to {kind}. Retry later.",
                    retry_after=_RETRY_SECONDS,
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _request(self, model: str, version: int, kind: DerivedFormat) -> None:
        """Send the task unless it is in progress; raise if it has failed."""
        key = redis_keys.conversion(model, version, kind)
        state = await self._state(key)
        if state.get("state") == "failed":
            raise error_of(state["code"], state["detail"], retry_after=_RETRY_SECONDS)
        if not self._workers.workers:
            raise NoWorker("No worker is running that could convert it. Start one.", retry_after=5)
        queued = json.dumps({"state": "queued"})
        if not state and await self._client.set(key, queued, nx=True, ex=_QUEUED_SECONDS):
            # Without `expires`, which the worker would compare with its own host's clock. One that
            # comes late finds the file.
            await run_in_threadpool(
                self._celery.send_task,
                redis_keys.TASK_CONVERT,
                args=[model, version, kind],
                queue=redis_keys.CONVERSION_QUEUE,
            )

    async def _state(self, key: str) -> dict[str, Any]:
        raw = await self._client.get(key)
        with suppress(ValueError):
            return dict(json.loads(raw)) if raw else {}
        return {}
