"""Work that answers later: stored whole before it is promised, then sent to a worker.

There are two sorts. Images for a network wait in Redis and run beside the lanes; what was promised
must outlive a Redis that is wiped, so they lie in the job's folder as well. All else runs in a
process of its own (`workers.jobs.child`); what it needs lies in the job's folder alone.

Order matters. The input is stored first, under an id nobody knows yet; then the row, which makes
the job exist; then the task. Killed after any step, nothing is half there: input without a
row expires or is swept, and a row without a task is found by the watch and its task sent.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from celery import Celery
from fastapi.concurrency import run_in_threadpool
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import OpsinError, Unavailable
from contracts.inference.inference import ItemError
from contracts.jobs import WORK_QUEUES, Job, JobKind
from contracts.queue import redis_keys
from contracts.queue.messages import Item, Pixels, bundled
from contracts.settings import Settings
from database.idempotency import IdempotencyKey
from database.jobs.files import JobFiles
from database.jobs.jobs import Created, Jobs, new_job_id
from database.jobs.leases import Leases
from models.catalog import queue_of
from service.periodic import Rounds

log = structlog.get_logger()

_WATCH_SECONDS = 5.0
_STALE_SECONDS = 30.0
_PURGE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class JobItem:
    """One image of a job: its pixels, or why it has none.

    Attributes:
        name: The file name that was sent, if one was.
        width: Pixels, after EXIF orientation; None where decoding failed.
        height: Likewise.
        content: RGB uint8 of the network's input size, or the error.
    """

    name: str | None
    width: int | None
    height: int | None
    content: Pixels | ItemError


class JobQueue:
    """Takes jobs, and watches that each one is worked on.

    Args:
        client: A connection whose answers are bytes.
        celery: To send tasks with.
        jobs: The table of jobs.
        leases: The workers' side of it, for the watch.
        files: The files beside the table.
        settings: Limits.
    """

    def __init__(
        self,
        client: Redis,
        celery: Celery,
        jobs: Jobs,
        leases: Leases,
        *,
        files: JobFiles,
        settings: Settings,
    ) -> None:
        self._client = client
        self._celery = celery
        self._jobs = jobs
        self._leases = leases
        self._files = files
        self._limit = settings.job_limit
        self._retention = timedelta(hours=settings.job_retention_hours)
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="job-publish")
        self._watches = Rounds("job-watch", self.watch, seconds=_WATCH_SECONDS)
        self._purges = Rounds("job-purge", self._purge, seconds=_PURGE_SECONDS)

    def start(self) -> None:
        self._watches.start()
        self._purges.start()

    async def stop(self) -> None:
        await self._watches.stop()
        await self._purges.stop()
        self._publisher.shutdown(wait=False, cancel_futures=True)

    async def submit(
        self,
        kind: JobKind,
        network: str,
        version: int,
        *,
        request: dict[str, Any],
        items: Sequence[JobItem],
        idempotency: tuple[str, str] | None,
    ) -> Job:
        """Store the job and send it off; the same key and digest return the first job.

        Args:
            kind: What is to be done.
            network: Name of the model.
            version: Its version.
            request: How.
            items: The images, those that could not be decoded among them.
            idempotency: The client's key, and the sha256 of what was asked.

        Raises:
            QueueFull: There are too many unfinished jobs.
            IdempotencyConflict: The key was used for another request.
            Unavailable: Redis, the disk or the database does not answer.
        """
        job_id = new_job_id()
        await self._store(job_id, items)
        told = request | {
            "model": network,
            "version": version,
            "items": [_described(item) for item in items],
        }
        try:
            created = await run_in_threadpool(self._create, kind, told, idempotency, job_id)
        except OpsinError:
            await self._forget(job_id)
            raise
        if not created.is_new:
            await self._forget(job_id)
        else:
            await self._send(created.job.id, None, network)
        return created.job

    async def submit_work(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        inputs: Mapping[str, bytes | Path] | None = None,
        idempotency: tuple[str, str] | None = None,
    ) -> Job:
        """Store a job that runs in a process of its own, and ring for it.

        Args:
            kind: One of `contracts.jobs.WORK_QUEUES`.
            request: What is to be done, validated; JSON.
            inputs: Files by name, found by the work in its folder; a path is moved there.
            idempotency: The client's key, and the sha256 of what was asked.

        Raises:
            QueueFull: There are too many unfinished jobs.
            IdempotencyConflict: The key was used for another request.
            Unavailable: The disk or the database does not answer.
        """
        job_id = new_job_id()
        await run_in_threadpool(self._files.store_inputs, job_id, inputs or {})
        try:
            created = await run_in_threadpool(self._create, kind, request, idempotency, job_id)
        except OpsinError:
            await run_in_threadpool(self._files.remove, job_id)
            raise
        if not created.is_new:
            await run_in_threadpool(self._files.remove, job_id)
        else:
            await self._send(job_id, WORK_QUEUES[kind], "")
        return created.job

    async def earlier(self, kind: JobKind, key: str, digest: str) -> Job | None:
        """The job that a request with that key has made already.

        For a request that uses something up before it becomes a job, and may be sent again.

        Raises:
            IdempotencyConflict: The key was used for another request.
            Unavailable: The database does not answer.
        """
        return await run_in_threadpool(self._jobs.earlier, IdempotencyKey(key, kind, digest))

    def _create(
        self,
        kind: JobKind,
        request: dict[str, Any],
        idempotency: tuple[str, str] | None,
        job_id: str,
    ) -> Created:
        key = IdempotencyKey(idempotency[0], kind, idempotency[1]) if idempotency else None
        return self._jobs.create(kind, request, limit=self._limit, idempotency=key, job_id=job_id)

    async def _store(self, job_id: str, items: Sequence[JobItem]) -> None:
        """Keep the pixels until the job is done, or as long as a job is kept at all."""
        packed = [
            Item(bytes(16), 0, 0, "", item.content).pack()
            for item in items
            if not isinstance(item.content, ItemError)
        ]
        if not packed:
            return
        inputs = {redis_keys.JOB_INPUT: bundled(packed)}
        await run_in_threadpool(self._files.store_inputs, job_id, inputs)
        try:
            pipe = self._client.pipeline()
            pipe.rpush(redis_keys.job_input(job_id), *packed)
            pipe.expire(redis_keys.job_input(job_id), int(self._retention.total_seconds()))
            await pipe.execute()
        except (RedisError, OSError) as error:
            await run_in_threadpool(self._files.remove, job_id)
            raise Unavailable("The queue does not answer. Retry soon.", retry_after=2) from error

    async def _forget(self, job_id: str) -> None:
        """Of a job that there is not: what was stored for it."""
        await self._discard(job_id)
        await run_in_threadpool(self._files.remove, job_id)

    async def _discard(self, job_id: str) -> None:
        try:
            await self._client.delete(redis_keys.job_input(job_id))
        except (RedisError, OSError):
            log.warning("job_input_left", job=job_id)  # it expires

    async def _send(self, job_id: str, queue: str | None, network: str) -> None:
        """Tell a worker, or ring for all of a queue; who is not told is told by the watch."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._publisher, self._publish, job_id, queue, network)
        except (OperationalError, OSError) as error:
            log.warning("job_not_sent", job=job_id, error=type(error).__name__)

    def _publish(self, job_id: str, queue: str | None, network: str) -> None:
        if queue is not None:
            # Old rings say nothing new: where nobody listens they do not pile up for ever.
            self._celery.send_task(
                redis_keys.TASK_RING, args=[queue], queue=queue, expires=_STALE_SECONDS
            )
            return
        queue = queue_of(network)
        self._celery.send_task(redis_keys.TASK_RUN_JOB, args=[job_id, network], queue=queue)

    async def _purge(self) -> None:
        await run_in_threadpool(self._jobs.purge, self._retention)

    async def watch(self) -> None:
        """Look once: end what is given up, and send again what was lost."""
        swept = await run_in_threadpool(self._leases.sweep, _STALE_SECONDS)
        rung: set[str] = set()
        for job_id in swept.resend:
            queue, network = await run_in_threadpool(self._jobs.destination, job_id)
            # One ring is for all that waits, and one that nobody has heard is enough.
            if queue is not None and (queue in rung or await self._rings(queue)):
                continue
            rung |= {queue} if queue is not None else set()
            await self._send(job_id, queue, network)
        for job_id in (*swept.failed, *swept.cancelled):
            await self._discard(job_id)
            await run_in_threadpool(self._files.end_work, job_id)

    async def _rings(self, queue: str) -> bool:
        try:
            return bool(await self._client.llen(queue))
        except (RedisError, OSError):
            return True


def _described(item: JobItem) -> dict[str, Any]:
    """What the worker has to know of an image beside its pixels."""
    error = item.content.model_dump() if isinstance(item.content, ItemError) else None
    return {"name": item.name, "width": item.width, "height": item.height, "error": error}
