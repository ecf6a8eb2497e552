"""A job worker, from start to stop: a small process that imports no TensorFlow.

Celery brings the bell; slots do the work, each in a child process of its own. Told to stop, it
stops its children and gives their jobs back: they go on from their last checkpoint.
"""

import signal
import sys
from datetime import UTC, datetime
from threading import Event

import celery.signals
import redis
import structlog

from contracts.logs import configure_logs
from contracts.queue import redis_keys
from contracts.queue.celery import REDIS_OPTIONS, celery_app
from contracts.settings import Settings
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.leases import Leases
from workers.inference.heartbeat import Presence
from workers.jobs.handlers import TABLE
from workers.jobs.slot import Desk, Slot
from workers.jobs.worker_id import own_name

log = structlog.get_logger()

_SPARE_SECONDS = 2.0


def run(settings: Settings, *, kinds: str = TABLE) -> None:
    """Work until told to stop.

    Args:
        settings: The whole configuration; children read it from the environment again.
        kinds: Which table names the functions.

    Raises:
        ValueError: `settings.redis_url` is missing, or there is no place for any job.
    """
    if settings.redis_url is None:
        raise ValueError("a job worker needs OPSIN_REDIS_URL")
    queues = {
        redis_keys.TRAINING_QUEUE: settings.training_concurrency,
        redis_keys.PICTURE_QUEUE: settings.picture_concurrency,
        redis_keys.FACE_QUEUE: settings.enrollment_concurrency,
    }
    queues = {queue: count for queue, count in queues.items() if count}
    if not queues:
        raise ValueError(
            "OPSIN_TRAINING_CONCURRENCY, OPSIN_PICTURE_CONCURRENCY and "
            "OPSIN_ENROLLMENT_CONCURRENCY are all 0"
        )
    # Until Celery takes the signal over: a worker told to stop as it starts goes quietly.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logs(settings.log_level, settings.log_format)
    engine = open_engine(settings.database)
    desk = Desk(
        worker_id=own_name(),
        leases=Leases(engine, lambda: datetime.now(UTC)),
        files=JobFiles.of(settings),
        settings=settings,
        stopping=Event(),
        kinds=kinds,
    )
    client = redis.Redis.from_url(settings.redis_url, **REDIS_OPTIONS)
    presence = Presence(client, desk.worker_id, queues)
    presence.start()
    slots = [Slot(queue, desk) for queue, count in queues.items() for _ in range(count)]
    try:
        _consume(settings.redis_url, desk, slots)
    finally:
        desk.stopping.set()
        for slot in slots:
            slot.ring()
        for slot in slots:
            slot.join(settings.shutdown_seconds / 2 + _SPARE_SECONDS)
        presence.stop()
        engine.dispose()
        log.info("job_worker_stopped")


def _consume(redis_url: str, desk: Desk, slots: list[Slot]) -> None:
    """Listen to the bell until SIGTERM."""
    app = celery_app(redis_url)

    @app.task(name=redis_keys.TASK_RING)  # type: ignore[untyped-decorator]
    def ring(queue: str) -> None:
        for slot in slots:
            if slot.queue == queue:
                slot.ring()

    # Connecting to this signal is how Celery is told to leave logging alone.
    celery.signals.setup_logging.connect(lambda **_: None, weak=False)
    celery.signals.worker_shutting_down.connect(lambda **_: desk.stopping.set(), weak=False)
    for slot in slots:
        slot.start()
    worker = app.Worker(
        pool="threads",
        concurrency=1,
        queues=sorted({slot.queue for slot in slots}),
        hostname=f"{desk.worker_id}@opsin",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    log.info("job_worker_starts", worker=desk.worker_id, slots=len(slots))
    worker.start()
