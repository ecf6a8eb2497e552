"""Formats that are made on request: asked of a worker, and waited for as long as the client does.

The API loads no TensorFlow, so it cannot convert. The request that comes first sends the work off;
one that cannot wait so long is told to come again, and finds the file.
"""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

from celery import Celery
from fastapi.concurrency import run_in_threadpool
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import ModelNotReady, NoWorker, Unavailable, ValidationFailed, error_of
from contracts.queue import redis_keys
from models.store.derived import Derived, derived_path
from models.store.store import Store
from service.queue.workers import Presence

_POLL_SECONDS = 0.2
_QUEUED_SECONDS = 30
_RETRY_SECONDS = 10.0


class Conversions:
    """Sends conversions to the workers and waits for their files.

    Args:
        store: Where the files appear.
        client: A connection whose answers are bytes.
        celery: To send tasks with.
        presence: Who lives.
    """

    def __init__(self, store: Store, client: Redis, celery: Celery, presence: Presence) -> None:
        self._store = store
        self._client = client
        self._celery = celery
        self._presence = presence

    async def until_made(self, model: str, version: int, kind: Derived, *, seconds: float) -> None:
        """Return once the file is there.

        Args:
            model: Its model.
            version: Its number.
            kind: The format.
            seconds: How long to wait.

        Raises:
            VersionNotFound: The model has no such version.
            ValidationFailed: It has no classifier to convert.
            NoWorker: None lives that could do it.
            ModelNotReady: It is still being made; come again.
            Unavailable: Redis does not answer.
            OpsinError: The conversion failed; as `models.store.derived.convert`.
        """
        path = await run_in_threadpool(derived_path, self._store, model, version, kind)
        manifest = await run_in_threadpool(self._store.manifest, model, version)
        if "serve" not in manifest.endpoints:
            raise ValidationFailed(
                f"'{model}' version {version} is a base without a classifier; "
                "download it as saved_model or keras."
            )
        until = time.monotonic() + seconds
        while not await run_in_threadpool(path.is_file):
            try:
                await self._ask(model, version, kind)
            except (RedisError, OperationalError, OSError) as error:
                raise Unavailable(
                    "The queue does not answer. Retry shortly.", retry_after=2
                ) from error
            if time.monotonic() + _POLL_SECONDS > until:
                raise ModelNotReady(
                    f"'{model}' version {version} is being converted to {kind}. Ask again.",
                    retry_after=_RETRY_SECONDS,
                )
            await asyncio.sleep(_POLL_SECONDS)

    async def _ask(self, model: str, version: int, kind: Derived) -> None:
        """Send the work off, unless it is under way; raise if it has failed."""
        key = redis_keys.conversion(model, version, kind)
        told = await self._told(key)
        if told.get("state") == "failed":
            raise error_of(told["code"], told["detail"], retry_after=_RETRY_SECONDS)
        if not self._presence.workers:
            raise NoWorker("No worker is running that could convert it. Start one.", retry_after=5)
        queued = json.dumps({"state": "queued"})
        if not told and await self._client.set(key, queued, nx=True, ex=_QUEUED_SECONDS):
            await run_in_threadpool(
                self._celery.send_task,
                redis_keys.TASK_CONVERT,
                args=[model, version, kind],
                queue=redis_keys.CONVERSION_QUEUE,
                expires=_QUEUED_SECONDS,
            )

    async def _told(self, key: str) -> dict[str, Any]:
        raw = await self._client.get(key)
        with suppress(ValueError):
            return dict(json.loads(raw)) if raw else {}
        return {}
