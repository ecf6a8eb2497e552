"""Opens what the routes stand on, in order, and closes it in the opposite one."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi.concurrency import run_in_threadpool
from redis.asyncio import Redis

from contracts.queue.celery import REDIS_OPTIONS, celery_app
from contracts.settings import MIB, Settings
from database.audit import Audit
from database.datasets import DatasetRows
from database.engine import open_engine, reachable
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from database.keys import Keys
from models.datasets.library import Library
from models.store.store import Store
from service.auth.key_cache import Keyring
from service.auth.rate_limit import RateLimits
from service.datasets.service import Datasets
from service.dependencies import Services
from service.explanation.cache import ExplanationCache
from service.explanation.layers import LayerCheck
from service.faces.context import FaceDesk, open_desk
from service.faces.erasure import resume
from service.faces.reembedding import Renewal, renew_if_possible
from service.inference.decoder import Decoder
from service.jobs.queue import JobQueue
from service.periodic import Rounds
from service.queue.admission import Admission, LaneLimits
from service.queue.client import Lanes
from service.queue.dispatcher import Dispatch, Drains
from service.queue.recovery import Sweep
from service.queue.replies import Replies
from service.queue.workers import Presence
from service.registry.conversions import Conversions

_TIDY = 600.0  # seconds
_AUDIT = 3600.0  # seconds between two looks for lines that are too old
_RENEW = 15.0  # seconds between a few templates that are made anew
_FORGET = 2.0  # seconds after which what another process erased is out of this one's memory


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Everything a running API has, closed at the end whatever happens.

    Raises:
        ValueError: `settings.redis_url` is missing.
    """
    if settings.redis_url is None:
        raise ValueError("the API needs OPSIN_REDIS_URL")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_connect(settings.redis_url))
        blocking = await stack.enter_async_context(_connect(settings.redis_url))
        celery = celery_app(settings.redis_url)
        stack.callback(celery.close)
        engine = open_engine(settings.database)
        stack.callback(engine.dispose)
        keys, audit = Keys(engine, _now), Audit(engine, _now)
        keyring = Keyring(settings, keys)
        await keyring.start()
        stack.push_async_callback(keyring.stop)
        decoder = Decoder(
            settings.decode_threads,
            max_pixels=settings.max_image_pixels,
            max_images=settings.max_images,
        )
        stack.callback(decoder.close)
        # One thread: a large overlay takes as long as many small images, and as much memory.
        renderer = Decoder(1, max_pixels=settings.max_image_pixels)
        stack.callback(renderer.close)
        drains = Drains(celery)
        stack.callback(drains.close)

        store = Store(settings.store_home)
        presence = Presence(client, settings.models, store)
        await presence.start()
        stack.push_async_callback(presence.stop)
        lanes = Lanes(client, LaneLimits.of(settings))
        replies = Replies(blocking, secrets.token_hex(8))
        replies.start()
        stack.push_async_callback(replies.stop)
        sweep = Sweep(lanes, replies, drains, presence)
        sweep.start()
        stack.push_async_callback(sweep.stop)
        job_files = JobFiles.of(settings)
        jobs = Jobs(engine, _now, job_files)
        queue = JobQueue(
            client, celery, jobs, Leases(engine, _now), files=job_files, settings=settings
        )
        queue.start()
        stack.push_async_callback(queue.stop)

        datasets = Datasets(Library.of(settings), DatasetRows(engine, _now), jobs.needs_dataset)
        tidying = Rounds("datasets", partial(run_in_threadpool, datasets.reconcile), seconds=_TIDY)
        await tidying.now()
        tidying.start()
        stack.push_async_callback(tidying.stop)
        stack.callback(datasets.close)

        desk = open_desk(settings, engine, client, job_files, _now)

        services = Services(
            settings=settings,
            presence=presence,
            dispatch=Dispatch(lanes, replies, drains, Admission(LaneLimits.of(settings)), presence),
            decoder=decoder,
            renderer=renderer,
            queue=queue,
            jobs=jobs,
            job_files=job_files,
            store=store,
            conversions=Conversions(store, client, celery, presence),
            datasets=datasets,
            explanations=ExplanationCache(settings.heatmap_cache_mb * MIB),
            layers=LayerCheck(store),
            keys=keys,
            keyring=keyring,
            rate_limits=RateLimits(client),
            audit=audit,
            faces=desk,
            database_ok=lambda: reachable(engine),
            started_at=time.time(),
        )
        _begin_rounds(services, stack)
        yield services


def _begin_rounds(services: Services, stack: AsyncExitStack) -> None:
    """Begin what goes on beside the requests, for faces and for the audits."""
    desk = services.faces
    for name, work, seconds in (
        ("faces", desk.tidy, _FORGET),
        ("templates", partial(renew_if_possible, Renewal(services)), _RENEW),
        ("frames", partial(run_in_threadpool, _sweep, desk), _TIDY),
        ("audit", partial(run_in_threadpool, _forget_old, services), _AUDIT),
        ("erasures", partial(resume, services), _TIDY),
    ):
        rounds = Rounds(name, work, seconds=seconds)
        rounds.start()
        stack.push_async_callback(rounds.stop)


def _sweep(desk: FaceDesk) -> None:
    """Remove frames without a row, and what the database's own log still holds of rows."""
    desk.kept.frames.sweep()
    desk.scrub()


def _connect(url: str) -> Redis:
    options: dict[str, Any] = dict(REDIS_OPTIONS)
    return Redis.from_url(url, **options)


def _forget_old(services: Services) -> None:
    """Delete lines of both audits by their age."""
    days = services.settings.audit_days
    services.audit.forget_old(days)
    services.faces.kept.events.forget_old(days)


def _now() -> datetime:
    return datetime.now(UTC)
