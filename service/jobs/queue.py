"""Accepts jobs: stores each one completely, then sends a task to a worker.

There are two sorts. Images for a network run on the inference workers; all other jobs run in their
own process (`workers.jobs.child`). The input of each is in the job's folder and nowhere else: an
accepted job must survive the loss of Redis, and whatever ends a job removes its folder.

The order matters. A request for which there is no room is refused before anything is done for it.
Then the input is stored, under a new id; then the row, which makes the job exist; then the task is
sent. If this process is killed in between, nothing is left half done: input without a row is
removed after an hour, and the periodic check sends the task of a row that has none.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, cast

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contracts.errors import DeadlineExceeded, JobNotFound, ModelNotReady, OpsinError
from contracts.inference.inference import ItemError
from contracts.jobs import WORK_QUEUES, Job, JobKind
from contracts.keys import Scope
from contracts.queue import redis_keys
from contracts.queue.messages import Item, Pixels, pack_bundle
from contracts.settings import MIB, Settings
from contracts.tracing.origin import current_origin
from database.idempotency import IdempotencyKey
from database.installation import home_id
from database.jobs.files import JobFiles
from database.jobs.jobs import CreatedJob, Jobs, new_job_id
from database.jobs.leases import Leases
from models.catalog import queue_of
from models.faces.provenance import require_named
from models.store.store import Store
from service.auth.job_scopes import scopes_of_request
from service.detached import DetachedTasks
from service.fair_budget import FairBudget
from service.jobs.disk_room import JobRoom
from service.periodic import PeriodicTask
from service.threads import run_in_threadpool

log = structlog.get_logger()

_CHECK_SECONDS = 5.0
_STALE_SECONDS = 30.0
_PURGE_SECONDS = 600.0
_FIRST_SECONDS = 60.0  # before the first one, which may come soon after a start
_MAX_UNREAD = 16  # notifications of one queue; each wakes one job worker
_MAX_TASKS = 10_000  # of one model; a kilobyte each, and those of cancelled jobs are among them
_PIXEL_BYTES = 256 * MIB  # decoded, of requests that wait to store them in this process
_TOO_MANY = "Too many jobs are being stored. Retry soon."


@dataclass(frozen=True, slots=True)
class JobItem:
    """One image of a job: its pixels, or why it has none.

    Attributes:
        name: The file name, if one was sent.
        width: Pixels, after EXIF orientation; None if decoding failed.
        height: Likewise.
        content: RGB uint8 of the network's input size, or the error.
    """

    name: str | None
    width: int | None
    height: int | None
    content: Pixels | ItemError


class JobQueue:
    """Accepts jobs, and checks regularly that each one is worked on.

    Attributes:
        pixels: What requests hold of decoded images until they are stored.

    Args:
        client: Redis, with responses as bytes.
        celery: Sends the tasks.
        jobs: The table of jobs.
        leases: The leases of job workers, for the periodic check.
        files: Inputs and artifacts of jobs.
        store: The versions that jobs use; those that recognize people need a scope of their own.
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
        store: Store,
        settings: Settings,
    ) -> None:
        self._client = client
        self._celery = celery
        self._jobs = jobs
        self._leases = leases
        self._files = files
        self._versions = store
        self._room = JobRoom(settings)
        self.pixels = FairBudget(_PIXEL_BYTES, _TOO_MANY)
        self._inputs = FairBudget(settings.upload_budget_mb * MIB, _TOO_MANY)
        self._limit = settings.job_limit
        self._retention = timedelta(hours=settings.job_retention_hours)
        self._accepting = DetachedTasks()
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="job-publish")
        self._checks = PeriodicTask("job-watch", self.check, seconds=_CHECK_SECONDS)
        self._purges = PeriodicTask(
            "job-purge", self._purge, seconds=_PURGE_SECONDS, first=_FIRST_SECONDS
        )
        self._sweeps = PeriodicTask(
            "job-files", self._remove_orphans, seconds=_PURGE_SECONDS, first=_FIRST_SECONDS
        )

    def start(self) -> None:
        self._checks.start()
        self._purges.start()
        self._sweeps.start()

    async def stop(self) -> None:
        await self._checks.stop()
        await self._purges.stop()
        await self._sweeps.stop()
        await self._accepting.ended()
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
        client: str | None = None,
        held: ExitStack | None = None,
    ) -> Job:
        """Store a job for an inference worker and send its task.

        Args:
            kind: What to do.
            network: Name of the model.
            version: Its version.
            request: Its parameters.
            items: The images, including those that could not be decoded.
            idempotency: The client's key and the sha256 of the request. The same key and digest
                return the first job.
            client: From `quota_key`; one client cannot take all places.
            held: What the images hold of `pixels`, until they are stored; if the caller is
                cancelled, what goes on without it takes that over.

        Raises:
            QueueFull: There are too many unfinished jobs.
            IdempotencyConflict: The key was used for another request.
            DiskUnusable: The disk is full, or nearly so.
            Unavailable: The database does not answer.
            NotFound: The version was trained on people, and deleted meanwhile.
        """
        await self.require_room(kind, idempotency=idempotency, client=client)
        job_id = new_job_id()
        full_request = request | {
            "model": network,
            "version": version,
            "items": [_item_info(item) for item in items],
        }
        created = await self._accept(
            lambda is_gone: run_in_threadpool(self._store_images, job_id, kind, items, is_gone),
            partial(self._create, kind, full_request, idempotency, job_id, client),
            partial(run_in_threadpool, self._files.remove, job_id),
            held,
        )
        if created.is_new:
            await self._send(created.job.id, None, network)
        return created.job

    async def submit_work(
        self,
        kind: JobKind,
        request: dict[str, Any],
        *,
        inputs: Mapping[str, bytes | Path] | None = None,
        idempotency: tuple[str, str] | None = None,
        client: str | None = None,
        scopes: Collection[Scope] = (),
    ) -> Job:
        """Store a job that runs in its own process, and notify the workers of its queue.

        Args:
            kind: One of `contracts.jobs.WORK_QUEUES`.
            request: Its validated parameters; JSON.
            inputs: Files by name for the job's folder; a path is moved there.
            idempotency: As for `submit`.
            client: As for `submit`.
            scopes: Those that it needs besides what follows from its request; they were checked.

        Raises:
            QueueFull: There are too many unfinished jobs.
            IdempotencyConflict: The key was used for another request.
            DiskUnusable: The disk is full or not writable.
            Unavailable: The database does not answer.
            NotFound: As for `submit`.
        """
        await self.require_room(kind, idempotency=idempotency, client=client)
        job_id, files = new_job_id(), inputs or {}
        with ExitStack() as held:
            # Their bodies were counted while they were read. They stay after the request, if the
            # caller is cancelled now.
            held.enter_context(self._inputs.held(client or "", _size_of(files)))
            created = await self._accept(
                lambda is_gone: run_in_threadpool(self._store_inputs, job_id, kind, files, is_gone),
                partial(self._create, kind, request, idempotency, job_id, client, scopes=scopes),
                partial(run_in_threadpool, self._files.remove, job_id),
                held,
            )
        if created.is_new:
            await self._send(job_id, WORK_QUEUES[kind], "")
        return created.job

    async def require_room(
        self,
        kind: JobKind,
        *,
        client: str | None,
        idempotency: tuple[str, str] | None = None,
    ) -> None:
        """Refuse a job that there is no room for, before anything is done for it.

        Of many requests at the same moment most are refused. Each would otherwise read and decode
        its input, flush it to the disk, wait for its turn to write to the database, and remove the
        input again.

        Raises:
            QueueFull: There are too many unfinished jobs.
            IdempotencyConflict: The key was used for another request.
            Unavailable: The database does not answer.
        """
        await run_in_threadpool(
            self._jobs.require_room,
            kind,
            limit=self._limit,
            idempotency=_key_of(kind, idempotency),
            client=client,
        )

    async def require_room_unread(self, kind: JobKind, key: str | None, client: str | None) -> None:
        """Refuse a job that there is no room for, before its body is read.

        Not with an `Idempotency-Key`: what was sent must be known first, because an earlier job for
        it is returned even if there is no room.

        Raises:
            QueueFull: There are too many unfinished jobs.
            Unavailable: The database does not answer.
        """
        if key is None:
            await self.require_room(kind, client=client)

    async def earlier(self, kind: JobKind, key: str, digest: str) -> Job | None:
        """The job that an earlier request with that key made.

        For requests that consume something before they become a job and may be repeated.

        Raises:
            IdempotencyConflict: The key was used for another request.
            Unavailable: The database does not answer.
        """
        return await run_in_threadpool(self._jobs.earlier, IdempotencyKey(key, kind, digest))

    async def _accept(
        self,
        store: Callable[[Event], Coroutine[Any, Any, None]],
        create: Callable[[], CreatedJob],
        discard: Callable[[], Awaitable[object]],
        held: ExitStack | None = None,
    ) -> CreatedJob:
        """Store the input of a job, then create the row; without a row the input is discarded.

        If it cannot be told whether there is a row, the input stays: `remove_orphans` removes it
        later if there is none.

        If the caller's time is over, that goes on without it: otherwise the input would stay.
        """
        is_gone = Event()
        task = self._accepting.start(_accepted(store(is_gone), create, discard, is_gone))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            is_gone.set()
            if held is not None:
                kept = held.pop_all()
                task.add_done_callback(lambda _: kept.close())
            raise

    def _create(
        self,
        kind: JobKind,
        request: dict[str, Any],
        idempotency: tuple[str, str] | None,
        job_id: str,
        client: str | None,
        *,
        scopes: Collection[Scope] = (),
    ) -> CreatedJob:
        store = self._versions
        own = scopes_of_request(kind, request, store)
        return self._jobs.create(
            kind,
            request,
            limit=self._limit,
            idempotency=_key_of(kind, idempotency),
            job_id=job_id,
            client=client,
            scopes=dict.fromkeys([*own, *scopes]),
            origin=current_origin(),
            check=partial(require_named, store, request) if "faces" in own else None,
        )

    def _store_images(
        self, job_id: str, kind: JobKind, items: Sequence[JobItem], is_gone: Event
    ) -> None:
        _require_caller(is_gone)  # after the wait for a thread
        packed = [
            Item(bytes(16), 0, 0, "", item.content).pack()
            for item in items
            if not isinstance(item.content, ItemError)
        ]
        inputs = {redis_keys.JOB_INPUT: pack_bundle(packed)} if packed else {}
        self._store_inputs(job_id, kind, inputs, is_gone)

    def _store_inputs(
        self, job_id: str, kind: JobKind, inputs: Mapping[str, bytes | Path], is_gone: Event
    ) -> None:
        """Without inputs, as for filters, the results need room too."""
        _require_caller(is_gone)
        with self._room.taken(kind, _size_of(inputs)):
            self._files.store_inputs(job_id, inputs)

    async def _send(self, job_id: str, queue: str | None, network: str) -> None:
        """Send the task, even if the caller's time is over meanwhile: the job is accepted."""
        await self._accepting.completed(self._send_task(job_id, queue, network))

    async def _send_task(self, job_id: str, queue: str | None, network: str) -> None:
        """Send the task. The periodic check sends it again if this fails.

        While no worker listens, nothing piles up: unread notifications are for this job too.
        """
        name, most = (queue_of(network), _MAX_TASKS) if queue is None else (queue, _MAX_UNREAD)
        if await self._unread(name) >= most:
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._publisher, self._publish, job_id, queue, network)
        except (OperationalError, OSError) as error:
            log.warning("job_not_sent", job=job_id, error=type(error).__name__)

    def _publish(self, job_id: str, queue: str | None, network: str) -> None:
        # Without `expires`, which the worker would compare with its own host's clock.
        if queue is not None:
            self._celery.send_task(redis_keys.TASK_NOTIFY, args=[queue], queue=queue)
            return
        queue = queue_of(network)
        self._celery.send_task(redis_keys.TASK_RUN_JOB, args=[job_id, network], queue=queue)

    async def _purge(self) -> None:
        """In steps of seconds, as a thread that works cannot be stopped."""
        while await run_in_threadpool(self._jobs.purge, self._retention):
            pass
        while await run_in_threadpool(self._jobs.give_back):
            pass

    async def _remove_orphans(self) -> None:
        await run_in_threadpool(self._jobs.remove_orphans)

    async def check(self) -> None:
        """Clean up after jobs that were given up, and send lost tasks again."""
        result = await run_in_threadpool(self._leases.sweep, _STALE_SECONDS, self._retention)
        # First, because the next check will not name these again.
        for job_id in (*result.failed, *result.cancelled):
            await run_in_threadpool(self._files.end_work, job_id)
        notified: set[str] = set()
        for job_id in result.resend:
            try:
                queue, network = await run_in_threadpool(self._jobs.destination, job_id)
            except JobNotFound:
                continue  # it has been deleted meanwhile
            if queue is None and await run_in_threadpool(self._is_out_of_service, network):
                await run_in_threadpool(self._give_up, job_id, network)
                continue
            # One notification is for the whole queue, and one that is still unread is enough.
            if queue is not None and (queue in notified or await self._unread(queue)):
                continue
            notified |= {queue} if queue is not None else set()
            await self._send(job_id, queue, network)

    def _is_out_of_service(self, model: str) -> bool:
        """Whether no worker can load any version of a model, which once answered. Blocks."""
        try:
            # An empty folder in place of the home says nothing.
            return (
                not self._versions.aliases(model) and home_id(self._files.root.parent) is not None
            )
        except (OpsinError, OSError):
            return False

    def _give_up(self, job_id: str, model: str) -> None:
        error = ModelNotReady(
            f"All versions of '{model}' were taken out of service before the job's turn came. "
            "Use another model."
        )
        if self._leases.give_up(job_id, error):
            self._files.end_work(job_id)

    async def _unread(self, queue: str) -> int:
        """The tasks that no worker has taken; as many as allowed if Redis is away."""
        try:
            return int(await cast("Any", self._client.llen(queue)))
        except (RedisError, OSError):
            return _MAX_TASKS


async def _accepted(
    store: Coroutine[Any, Any, None],
    create: Callable[[], CreatedJob],
    discard: Callable[[], Awaitable[object]],
    is_gone: Event,
) -> CreatedJob:
    def create_unless_gone() -> CreatedJob:
        _require_caller(is_gone)
        return create()

    try:
        await store
        created = await run_in_threadpool(create_unless_gone)
    except OpsinError as error:
        if not error.is_outcome_unknown:
            await discard()
        raise
    if not created.is_new:
        await discard()
    return created


def _size_of(inputs: Mapping[str, bytes | Path]) -> int:
    """Bytes in memory; a file is on the disk already."""
    return sum(len(content) for content in inputs.values() if isinstance(content, bytes))


def _require_caller(is_gone: Event) -> None:
    if is_gone.is_set():
        raise DeadlineExceeded("Nobody waits for the job any more.")


def _key_of(kind: JobKind, idempotency: tuple[str, str] | None) -> IdempotencyKey | None:
    return IdempotencyKey(idempotency[0], kind, idempotency[1]) if idempotency else None


def _item_info(item: JobItem) -> dict[str, Any]:
    """What the worker needs to know about an image besides its pixels."""
    error = item.content.model_dump() if isinstance(item.content, ItemError) else None
    return {"name": item.name, "width": item.width, "height": item.height, "error": error}
