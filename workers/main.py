"""An inference worker, from start to stop: beat, load, consume, finish what is in hand.

One process, one pool thread: TensorFlow spreads a batch over the cores by itself, and leaving
prefork means that nothing is ever forked after TensorFlow has started.
"""

import os
import secrets
import signal
import sys
from datetime import UTC, datetime
from threading import Event

import celery.signals
import redis
import structlog
from celery import Celery

from contracts import names
from contracts.broker import REDIS_OPTIONS, celery_app
from contracts.inference import Operation
from contracts.logs import configure_logs
from contracts.presence import HeldModel
from contracts.settings import Settings
from database.engine import open_engine
from database.leases import Leases
from workers.drain import Drain, Predictor
from workers.jobs import JobRunner
from workers.lane import LaneName, Lanes
from workers.presence import Presence

log = structlog.get_logger()


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        ValueError: `settings.redis_url` is missing.
    """
    if settings.redis_url is None:
        raise ValueError("a worker needs OPSIN_REDIS_URL")
    # Until Celery takes the signal over: a worker told to stop while it loads goes quietly.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logs(settings.log_level, settings.log_format)
    client = redis.Redis.from_url(settings.redis_url, **REDIS_OPTIONS)
    worker_id = secrets.token_hex(8)
    presence = Presence(client, worker_id)
    presence.start()
    try:
        held, predictors = _load(settings, presence)
        app = celery_app(settings.redis_url)
        _register(app, settings, client, worker_id, predictors)
        celery.signals.worker_ready.connect(lambda **_: presence.tell(*held.values()), weak=False)
        _consume(app, worker_id, predictors)
    finally:
        presence.stop()
        log.info("worker_stopped")


def _load(
    settings: Settings, presence: Presence
) -> tuple[dict[str, HeldModel], dict[str, Predictor]]:
    """Load the networks; TensorFlow is imported here, told first what it asks the environment."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or it greets in ten lines
    from workers.models import load_models  # noqa: PLC0415 (TensorFlow)

    return load_models(settings, presence)


def _register(
    app: Celery,
    settings: Settings,
    client: "redis.Redis",
    worker_id: str,
    predictors: dict[str, Predictor],
) -> None:
    """Give the application its two tasks."""
    stopping = Event()
    celery.signals.worker_shutting_down.connect(lambda **_: stopping.set(), weak=False)

    def send_drain(lane: LaneName) -> None:
        app.send_task(
            names.TASK_DRAIN,
            args=[lane.model, lane.version, lane.operation],
            queue=names.inference_queue(lane.model),
            expires=names.FLAG_EXPIRE_MS / 1000,
        )

    drain = Drain(
        Lanes(client, worker_id),
        predictors,
        batch_limit=settings.max_batch_size,
        linger_seconds=settings.linger_ms / 1000,
        stopping=stopping,
        schedule=send_drain,
    )
    leases = Leases(open_engine(settings.database), lambda: datetime.now(UTC))
    run_job = JobRunner(
        leases,
        client,
        predictors,
        worker_id,
        batch_limit=settings.max_batch_size,
        give_way=drain.relieve,
    )

    @app.task(name=names.TASK_DRAIN)  # type: ignore[untyped-decorator]
    def drain_task(model: str, version: int, operation: Operation) -> None:
        drain(LaneName(model, version, operation))

    @app.task(name=names.TASK_RUN_JOB)  # type: ignore[untyped-decorator]
    def run_job_task(job_id: str) -> None:
        run_job(job_id)


def _consume(app: Celery, worker_id: str, predictors: dict[str, Predictor]) -> None:
    """Take tasks until SIGTERM, then finish the one in hand."""
    # Connecting to this signal is how Celery is told to leave logging alone.
    celery.signals.setup_logging.connect(lambda **_: None, weak=False)
    queues = [names.inference_queue(model) for model in predictors]
    if not queues:
        log.error("nothing_to_serve", help="opsin weights pull; then start the worker again")
        # It stays, so that /v1/models can tell why, and takes no work.
        queues = [f"idle.{worker_id}"]
    worker = app.Worker(
        pool="threads",
        concurrency=1,
        queues=queues,
        hostname=f"{worker_id}@opsin",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    log.info("worker_starts", worker=worker_id, models=sorted(predictors))
    worker.start()
