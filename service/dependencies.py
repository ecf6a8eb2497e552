"""What a route may use: the parts of a running service, built by `service.lifespan`.

The parts are imported for type checkers only: most of them import this module.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from contracts.metrics.registry import Metrics
from contracts.settings import Settings
from service.jobs.stream_limit import StreamLimiter
from service.large_reads import LargeReads
from service.lock_waiting import LockWaiting
from service.shared_reads import SharedReads

if TYPE_CHECKING:
    from database.audit import Audit
    from database.jobs.files import JobFiles
    from database.jobs.jobs import Jobs
    from database.keys import Keys
    from models.store.store import Store
    from service.auth.key_cache import KeyCache
    from service.auth.rate_limit import RateLimits
    from service.auth.sessions import Sessions
    from service.changes import ChangeFeed
    from service.datasets.service import Datasets
    from service.explanation.cache import ExplanationCache
    from service.explanation.layers import LayerCheck
    from service.faces.context import FaceServices
    from service.inference.decoder import Decoder
    from service.jobs.queue import JobQueue
    from service.metrics.publisher import MetricsService
    from service.queue.dispatcher import Dispatcher
    from service.queue.workers import WorkerRegistry
    from service.registry.conversions import ConversionClient


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running service, opened at startup and closed at shutdown.

    `renderer` draws images and writes large responses in its own thread pool, so that
    classifications, which use `decoder`, never wait for it.
    """

    settings: Settings
    workers: "WorkerRegistry"
    dispatcher: "Dispatcher"
    decoder: "Decoder"
    renderer: "Decoder"
    job_queue: "JobQueue"
    jobs: "Jobs"
    job_files: "JobFiles"
    store: "Store"
    conversions: "ConversionClient"
    datasets: "Datasets"
    explanations: "ExplanationCache"
    layers: "LayerCheck"
    keys: "Keys"
    key_cache: "KeyCache"
    changes: "ChangeFeed"
    rate_limits: "RateLimits"
    sessions: "Sessions"
    audit: "Audit"
    faces: "FaceServices"
    database_ok: Callable[[], bool]
    started_at: float
    stream_limiter: StreamLimiter = field(default_factory=StreamLimiter)
    lock_waiting: LockWaiting = field(default_factory=LockWaiting)
    shared_reads: SharedReads = field(default_factory=SharedReads)
    large_reads: LargeReads = field(default_factory=LargeReads)
    metrics: Metrics = field(default_factory=Metrics)
    metrics_service: "MetricsService | None" = None


OpenServices = Callable[[Settings], AbstractAsyncContextManager[Services]]


async def services_of(request: Request) -> Services:
    """The services of the running application."""
    services = request.app.state.services
    if not isinstance(services, Services):
        raise TypeError("the application was started without its lifespan")
    return services


ServicesDep = Annotated[Services, Depends(services_of)]
