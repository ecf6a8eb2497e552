"""A job worker: a small process that does not import TensorFlow.

Celery delivers notifications; slots run the jobs, each in a child process. When the worker has to
stop, it stops its children and gives their jobs back, which resume from their last checkpoint.
"""

import os
import signal
import sys
from threading import Event

import celery.signals
import redis
import structlog

from contracts.logs import configure_logs
from contracts.metrics.dependencies import count_database, count_redis
from contracts.metrics.process import process_reader
from contracts.metrics.publisher import MetricsPublisher
from contracts.metrics.registry import Metrics
from contracts.queue import redis_keys
from contracts.queue.celery import REDIS_OPTIONS, celery_app
from contracts.settings import Settings
from contracts.tracing.spans import start_tracing, stop_tracing
from database.clock import DatabaseClock
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.leases import Leases
from workers.inference.heartbeat import HeartbeatPublisher
from workers.inference.installation import InstallationCheck
from workers.jobs.handlers import TABLE
from workers.jobs.slot import Slot, SlotContext
from workers.jobs.worker_id import new_worker_id
from workers.scratch import remove_left_folders

log = structlog.get_logger()

_EXTRA_STOP_SECONDS = 2.0


def run(settings: Settings, *, kinds: str = TABLE) -> None:
    """Run jobs until SIGTERM.

    Args:
        settings: Child processes read theirs from the environment.
        kinds: The table of handlers, see `workers.jobs.handlers`.

    Raises:
        ValueError: `settings.redis_url` is missing, or the concurrency of all queues is 0.
    """
    if settings.redis_url is None:
        raise ValueError("a job worker needs OPSIN_REDIS_URL")
    queues = {
        redis_keys.TRAINING_QUEUE: settings.training_concurrency,
        redis_keys.IMAGE_QUEUE: settings.picture_concurrency,
        redis_keys.DATASET_QUEUE: settings.dataset_concurrency,
        redis_keys.FACE_QUEUE: settings.enrollment_concurrency,
    }
    queues = {queue: count for queue, count in queues.items() if count}
    if not queues:
        raise ValueError(
            "OPSIN_TRAINING_CONCURRENCY, OPSIN_PICTURE_CONCURRENCY, OPSIN_DATASET_CONCURRENCY and "
            "OPSIN_ENROLLMENT_CONCURRENCY are all 0"
        )
    # Until Celery handles the signal: a worker that is stopped while it starts exits quietly.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logs(settings.log_level, settings.log_format)
    start_tracing(settings, "jobs")
    remove_left_folders()
    engine = open_engine(settings.database)
    metrics = Metrics()
    metrics.before_reading(process_reader(metrics, settings.home))
    count_database(engine, metrics)
    context = SlotContext(
        worker_id=new_worker_id(),
        leases=Leases(engine, DatabaseClock(engine), metrics),
        files=JobFiles.of(settings),
        settings=settings,
        stopping=Event(),
        kinds=kinds,
    )
    client = redis.Redis.from_url(settings.redis_url, **REDIS_OPTIONS)
    count_redis(client, metrics)
    publisher = MetricsPublisher(client, metrics, context.worker_id, "jobs")
    publisher.start()
    heartbeat = HeartbeatPublisher(client, context.worker_id, queues)
    check = InstallationCheck(settings.home, lambda: os.kill(os.getpid(), signal.SIGTERM))
    heartbeat.set_installation(check.home_id)
    heartbeat.set_checks(check)
    heartbeat.start()
    slots = [Slot(queue, context) for queue, count in queues.items() for _ in range(count)]
    try:
        _consume(settings.redis_url, context, slots)
    finally:
        context.stopping.set()
        for slot in slots:
            slot.notify()
        for slot in slots:
            slot.join(settings.shutdown_seconds / 2 + _EXTRA_STOP_SECONDS)
        heartbeat.stop()
        publisher.stop()
        engine.dispose()
        stop_tracing()
        log.info("job_worker_stopped")


def _consume(redis_url: str, context: SlotContext, slots: list[Slot]) -> None:
    """Receive notifications until SIGTERM."""
    app = celery_app(redis_url)

    @app.task(name=redis_keys.TASK_NOTIFY)  # type: ignore[untyped-decorator]
    def notify(queue: str) -> None:
        for slot in slots:
            if slot.queue == queue:
                slot.notify()

    # Celery leaves logging alone if this signal has a receiver.
    celery.signals.setup_logging.connect(lambda **_: None, weak=False)
    celery.signals.worker_shutting_down.connect(lambda **_: context.stopping.set(), weak=False)
    for slot in slots:
        slot.start()
    worker = app.Worker(
        pool="threads",
        concurrency=1,
        queues=sorted({slot.queue for slot in slots}),
        hostname=f"{context.worker_id}@opsin",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    log.info("job_worker_starts", worker=context.worker_id, slots=len(slots))
    worker.start()
