"""Opens the parts of the service in order, and closes them in reverse."""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from sqlalchemy import Engine

from contracts.metrics.dependencies import count_database, count_redis
from contracts.metrics.process import process_reader
from contracts.metrics.registry import Metrics
from contracts.queue.celery import ASYNC_REDIS_OPTIONS, celery_app
from contracts.queue.changes import Topic
from contracts.queue.shared_pixels import open_shared_pixels
from contracts.settings import MIB, Settings
from database.audit import Audit
from database.clock import DatabaseClock
from database.datasets import DatasetRows
from database.engine import open_engine, reachable
from database.installation import home_id
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from database.keys import Keys
from models.datasets.store import DatasetStore
from models.store.store import Store
from service.auth.key_cache import KeyCache
from service.auth.rate_limit import RateLimits
from service.auth.sessions import Sessions
from service.changes import ChangeFeed, SharedState
from service.datasets.service import Datasets
from service.dependencies import Services
from service.explanation.cache import ExplanationCache
from service.explanation.layers import LayerCheck
from service.faces.context import FaceServices, open_face_services
from service.faces.privacy import retention
from service.faces.privacy.erasure import resume
from service.faces.reembedding import Reembedding
from service.inference.decoder import Decoder
from service.inference.pixel_budget import PixelBudget
from service.jobs.queue import JobQueue
from service.large_reads import LargeReads
from service.metrics.publisher import MetricsService
from service.periodic import PeriodicTask
from service.queue.admission import Admission, QueueLimits
from service.queue.append_only_file import FileWatch
from service.queue.client import QueueClient
from service.queue.dispatcher import BatchTaskSender, Dispatcher
from service.queue.recovery import Recovery
from service.queue.replies import Replies
from service.queue.workers import WorkerRegistry
from service.registry.conversions import ConversionClient
from service.shared_check import SharedCheck
from service.system.metrics import served_versions
from service.threads import run_in_threadpool

_CLEANUP_SECONDS = 600.0
_FILE_SECONDS = 5.0
_FIRST_SECONDS = 60.0  # before the first one, which a start shall not be slowed down by
_START_SECONDS = 10.0  # that a start waits for unfinished erasures
_AUDIT_SECONDS = 3600.0  # between two deletions of old audit lines
_REEMBED_SECONDS = 15.0  # between two batches of templates that are embedded again
_DROP_SECONDS = 30.0  # between two checks for metrics of versions that are no longer served
_CONNECTION_SECONDS = 2.0  # that a call waits for one of the connections to Redis
_FORGET_SECONDS = 2.0  # between two checks for what other processes erased


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """The services of a running API; closed at the end in any case.

    Raises:
        ValueError: `settings.redis_url` is missing.
    """
    if settings.redis_url is None:
        raise ValueError("the API needs OPSIN_REDIS_URL")
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        metrics.before_reading(process_reader(metrics, settings.home))
        client, blocking = await _connect_twice(stack, settings.redis_url, metrics)
        celery = celery_app(settings.redis_url)
        stack.callback(celery.close)
        engine = _open_engine(stack, settings, metrics)
        clock = DatabaseClock(engine)
        keys, audit = Keys(engine, clock), Audit(engine, _now)
        key_cache = KeyCache(settings, keys)
        await key_cache.start()
        stack.push_async_callback(key_cache.stop)
        budget = PixelBudget(settings.max_image_pixels)
        decoder, renderer = _open_decoders(stack, settings, budget)
        tasks = BatchTaskSender(celery)
        stack.callback(tasks.close)

        store = Store(settings.store_home)
        pixels = open_shared_pixels()
        if pixels is not None:
            stack.callback(pixels.close)
        workers = WorkerRegistry(
            client, settings.models, store, pixels, installation=home_id(settings.home)
        )
        await workers.start()
        stack.push_async_callback(workers.stop)
        limits = QueueLimits.of(settings)
        queues = QueueClient(client, limits, pixels)
        api_id = secrets.token_hex(8)
        replies = Replies(blocking, api_id, pixels)
        _start(stack, replies)
        recovery = Recovery(queues, replies, tasks, workers, metrics)
        _start(stack, recovery)
        job_files = JobFiles.of(settings)
        jobs = Jobs(engine, clock, job_files, metrics)
        job_queue = JobQueue(
            *(client, celery, jobs, Leases(engine, clock, metrics)),
            files=job_files,
            store=store,
            settings=settings,
        )
        _start(stack, job_queue)

        datasets = Datasets(
            DatasetStore.of(settings, budget.gate),
            DatasetRows(engine, _now),
            jobs.needs_dataset,
            metrics,
        )
        reconciling = PeriodicTask(
            "datasets", partial(run_in_threadpool, datasets.reconcile), seconds=_CLEANUP_SECONDS
        )
        await reconciling.run_once()
        reconciling.start()
        stack.push_async_callback(reconciling.stop)
        stack.callback(datasets.close)

        faces = open_face_services(settings, engine, client, job_files, _now)
        changes = await _follow_changes(
            stack,
            settings.redis_url,
            api_id,
            metrics=metrics,
            keys=key_cache,
            models=workers,
            faces=faces,
        )
        admission, cache = Admission(limits), ExplanationCache(settings.heatmap_cache_mb * MIB)
        metrics.before_reading(partial(_read_gauges, metrics, admission, cache, settings))
        services = Services(
            settings=settings,
            workers=workers,
            dispatcher=Dispatcher(queues, replies, tasks, admission, workers),
            decoder=decoder,
            renderer=renderer,
            job_queue=job_queue,
            jobs=jobs,
            job_files=job_files,
            store=store,
            conversions=ConversionClient(store, client, celery, workers),
            datasets=datasets,
            explanations=cache,
            layers=LayerCheck(store),
            keys=keys,
            key_cache=key_cache,
            changes=changes,
            rate_limits=RateLimits(client),
            sessions=Sessions(client, key_cache, settings.session_idle_minutes * 60),
            audit=audit,
            faces=faces,
            database_ok=lambda: reachable(engine),
            started_at=time.time(),
            large_reads=_open_large_reads(stack),
            metrics=metrics,
            metrics_service=_start_metrics(stack, client, metrics, api_id),
        )
        await _start_periodic_tasks(services, stack)
        yield services


def _start(stack: AsyncExitStack, part: Replies | Recovery | JobQueue) -> None:
    part.start()
    stack.push_async_callback(part.stop)


def _open_decoders(
    stack: AsyncExitStack, settings: Settings, budget: PixelBudget
) -> tuple[Decoder, Decoder]:
    """The threads that decode images, and those that draw on them."""
    decoder = Decoder(
        settings.decode_threads,
        max_pixels=settings.max_image_pixels,
        max_images=settings.max_images,
        budget=budget,
    )
    stack.callback(decoder.close)
    # One thread for large overlays and one for the others, which each cost more than decoding.
    renderer = Decoder(1, max_pixels=settings.max_image_pixels, budget=budget)
    stack.callback(renderer.close)
    return decoder, renderer


def _open_large_reads(stack: AsyncExitStack) -> LargeReads:
    reads = LargeReads()
    stack.callback(reads.close)
    return reads


async def _follow_changes(
    stack: AsyncExitStack,
    redis_url: str,
    api_id: str,
    *,
    metrics: Metrics,
    keys: KeyCache,
    models: WorkerRegistry,
    faces: FaceServices,
) -> ChangeFeed:
    """Follow the changes of other processes, with connections of its own."""
    client, blocking = await _connect_twice(stack, redis_url, metrics)
    states: Mapping[Topic, SharedState] = {
        "keys": keys,
        "models": models,
        "faces": SharedCheck(faces.refresh_search),
    }
    # Not the faces: a search checks the templates itself.
    changes = ChangeFeed(client, blocking, api_id, states, required=("keys", "models"))
    await changes.start()
    stack.push_async_callback(changes.stop)
    return changes


async def _start_periodic_tasks(services: Services, stack: AsyncExitStack) -> None:
    """Start the background tasks for faces, logs and Redis' file, and finish erasures.

    Each has a task of its own: one that fails does not keep the others from running.
    """
    stack.callback(services.lock_waiting.close)  # after the tasks, which use it
    faces = services.faces
    tasks: tuple[tuple[str, Callable[[], Awaitable[object]], float], ...] = (
        ("faces", faces.refresh_search, _FORGET_SECONDS),
        ("templates", Reembedding(services).run_once, _REEMBED_SECONDS),
        ("frames", partial(run_in_threadpool, faces.frames.remove_orphans), _CLEANUP_SECONDS),
        ("backups", partial(run_in_threadpool, faces.has_no_copies), _CLEANUP_SECONDS),
        ("deleted-rows", partial(run_in_threadpool, faces.purge_deleted_rows), _CLEANUP_SECONDS),
        ("audit", partial(run_in_threadpool, delete_old_entries, services), _AUDIT_SECONDS),
        ("unserved-metrics", partial(_drop_unserved, services), _DROP_SECONDS),
        ("retention", partial(retention.run, services), _CLEANUP_SECONDS),
    )
    if faces.redis is not None:
        tasks += (("append-only-file", FileWatch(faces.redis).run_once, _FILE_SECONDS),)
    for name, work, seconds in tasks:
        task = PeriodicTask(name, work, seconds=seconds, first=min(seconds, _FIRST_SECONDS))
        task.start()
        stack.push_async_callback(task.stop)
    await _finish_erasures(services, stack)


async def _finish_erasures(services: Services, stack: AsyncExitStack) -> None:
    """Finish erasures before the first request, and from then on periodically.

    A database or a disk that is slow does not keep the service from starting: the store refuses the
    versions of erased persons anyway.
    """
    work = partial(resume, services)
    task = PeriodicTask(
        "erasures", work, seconds=_CLEANUP_SECONDS, first=0, after_fault=_FIRST_SECONDS
    )
    task.start()
    stack.push_async_callback(task.stop)
    await task.first_run(_START_SECONDS)


def delete_old_entries(services: Services) -> None:
    """Delete the lines of both audit logs that are old enough.

    Raises:
        Unavailable: The database does not answer.
    """
    days, faces = services.settings.audit_days, services.faces
    now = faces.repositories.deletion_clock.now()
    services.audit.delete_old(days, now)
    faces.events.delete_old(days, now)


def _open_engine(stack: AsyncExitStack, settings: Settings, metrics: Metrics) -> Engine:
    engine = open_engine(settings.database)
    stack.callback(engine.dispose)
    count_database(engine, metrics)
    return engine


def _start_metrics(
    stack: AsyncExitStack, client: Redis, metrics: Metrics, api_id: str
) -> MetricsService:
    service = MetricsService(client, metrics, api_id)
    service.start()
    stack.push_async_callback(service.stop)
    return service


async def _connect_twice(stack: AsyncExitStack, url: str, metrics: Metrics) -> tuple[Redis, Redis]:
    """A client for everything, and one whose calls block."""
    return (
        await stack.enter_async_context(_connect(url, metrics)),
        await stack.enter_async_context(_connect(url, metrics)),
    )


def _connect(url: str, metrics: Metrics) -> Redis:
    options: dict[str, Any] = dict(ASYNC_REDIS_OPTIONS)
    # Of more calls at a time than it has connections, the others wait; an ordinary pool raises.
    pool = BlockingConnectionPool.from_url(url, timeout=_CONNECTION_SECONDS, **options)
    client: Redis = Redis.from_pool(pool)
    count_redis(client, metrics)
    return client


async def _drop_unserved(services: Services) -> None:
    if services.metrics_service is not None and services.workers.redis_ok:
        await services.metrics_service.drop_unserved(served_versions(services))


def _read_gauges(
    metrics: Metrics, admission: Admission, cache: ExplanationCache, settings: Settings
) -> None:
    """Set the gauges of what is held in memory."""
    for queue, count in admission.counts().items():
        labels = (queue.model, str(queue.version), queue.operation)
        metrics.set("pending_images", count, *labels)
    metrics.set("heatmap_cache_bytes", cache.bytes)
    metrics.set("queue_limit_images", settings.queue_limit)


def _now() -> datetime:
    return datetime.now(UTC)
