"""Waits until a version that a job has promoted answers requests.

A worker needs seconds to load a version, so the first requests after a job that ended with the
promotion would get 503. Such a job therefore ends when every inference worker that loads the
version answers with it. The wait is bounded, and the result says what it has found.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import redis
import structlog

from contracts.errors import OpsinError
from contracts.inference.manifest import CHAMPION
from contracts.inference.serving import Serving
from contracts.jobs import Progress
from contracts.queue.celery import REDIS_OPTIONS
from contracts.queue.heartbeat import WorkerBeat, read_heartbeats
from contracts.settings import Settings
from contracts.work import Work, WorkStoppedError
from models.catalog import CATALOG
from models.store.store import Store

log = structlog.get_logger()

WAIT_SECONDS = 180.0
_NO_WORKER_SECONDS = 5.0  # one may just be restarting
_POLL_SECONDS = 0.25
# The API processes read the heartbeats every half second; then they send requests to the version.
_API_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _State:
    """The inference workers that load the model, and how far each is with the version.

    Attributes:
        failed: Why some cannot load it.
    """

    workers: int
    ready: int
    failed: tuple[str, ...]

    @property
    def is_settled(self) -> bool:
        return self.workers > 0 and self.ready + len(self.failed) == self.workers


def wait_until_served(
    work: Work,
    settings: Settings,
    model: str,
    version: int,
    *,
    report: Callable[[], None] | None = None,
    seconds: float = WAIT_SECONDS,
) -> Serving | None:
    """Wait until a promoted version answers on every inference worker that loads it.

    A job that is cancelled meanwhile has promoted its version already, so it only stops waiting.

    Args:
        report: Called often, to report the progress; by default, the phase `load`.
        seconds: The longest wait.

    Returns:
        What was found; None if there is no queue, and so no worker to wait for.

    Raises:
        WorkStoppedError: The worker has to stop, or has lost the job; another attempt will wait.
    """
    if settings.redis_url is None:
        return None
    report = report or (lambda: work.progress(Progress(fraction=0.99, phase="load")))
    store, began = Store(settings.store_home), time.monotonic()
    with redis.Redis.from_url(settings.redis_url, **REDIS_OPTIONS) as client:
        while True:
            waited = time.monotonic() - began
            state = _state(client, model, version)
            if state is not None and state.is_settled:
                time.sleep(_API_SECONDS)
                return _serving(state, waited + _API_SECONDS, None)
            reason = _reason_to_end(state, waited, seconds) or _superseded(store, model, version)
            if reason is None:
                try:
                    report()
                except WorkStoppedError as stopped:
                    if "cancelled" not in stopped.args:
                        raise
                    reason = "The job was cancelled while it waited."
            if reason is not None:
                log.warning("version_not_served", model=model, version=version, reason=reason)
                return _serving(state, waited, reason)
            time.sleep(_POLL_SECONDS)


def _reason_to_end(state: _State | None, waited: float, seconds: float) -> str | None:
    """Why waiting longer is pointless; None if it is not."""
    if state is not None and not state.workers and waited > _NO_WORKER_SECONDS:
        return "No inference worker is running that loads the model."
    if waited > seconds:
        return f"It was not loaded within {seconds:.0f} seconds."
    return None


def _superseded(store: Store, model: str, version: int) -> str | None:
    try:
        if store.aliases(model).get(CHAMPION) != version:
            return "Another version was promoted meanwhile."
    except (OSError, ValueError, OpsinError):
        return "The model's aliases cannot be read."
    return None


def _state(client: "redis.Redis", model: str, version: int) -> _State | None:
    """How far the workers are; None if Redis does not answer."""
    try:
        beats = read_heartbeats(client).workers
    except redis.RedisError:
        return None
    workers = [beat for beat in beats if not beat.queues and _loads(beat, model)]
    ready = [beat for beat in workers if version in beat.loaded_versions(model)]
    failed = (_failure(beat, model, version) for beat in workers if beat not in ready)
    return _State(len(workers), len(ready), tuple(reason for reason in failed if reason))


def _loads(beat: WorkerBeat, model: str) -> bool:
    """Whether a worker loads the model: all that were trained, and what is in its OPSIN_MODELS."""
    return model not in CATALOG or any(held.name == model for held in beat.models)


def _failure(beat: WorkerBeat, model: str, version: int) -> str | None:
    """Why a worker does not load the version; None if it may still do so."""
    for held in beat.models:
        if held.name == model and held.state == "unavailable" and held.version in (version, None):
            return held.reason or "A worker cannot load it."
    return None


def _serving(state: _State | None, waited: float, reason: str | None) -> Serving:
    if reason is None and state is not None and state.failed:
        reason = state.failed[0]
    return Serving(
        workers=state.workers if state else 0,
        ready=state.ready if state else 0,
        seconds=round(waited, 2),
        reason=reason,
    )
