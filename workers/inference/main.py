"""The inference worker, from start to stop.

One process with one pool thread: the runtimes spread a batch over the cores by themselves, and
without prefork nothing is ever forked after TensorFlow has started. A second thread loads and
evicts versions while the first one answers.
"""

import os
import secrets
import signal
import sys
from concurrent.futures import Executor
from threading import Event, Thread

import celery.signals
import redis
import structlog
from celery import Celery

from contracts.garbage import set_aside
from contracts.inference.inference import Operation
from contracts.logs import configure_logs
from contracts.metrics.dependencies import count_database, count_redis
from contracts.metrics.process import process_reader
from contracts.metrics.publisher import MetricsPublisher
from contracts.metrics.registry import Metrics
from contracts.queue import redis_keys
from contracts.queue.celery import REDIS_OPTIONS, celery_app
from contracts.queue.clock import RedisClock
from contracts.queue.redis_keys import QueueGroup, QueueName
from contracts.settings import Settings
from contracts.tracing.spans import start_tracing, stop_tracing
from database.clock import DatabaseClock
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.leases import Leases
from models.catalog import TRAINED, queue_of
from models.processes import lower_priority
from models.serving.runtime import RuntimeOptions, has_gpu
from models.store.derived import DerivedFormat
from models.store.store import Store
from workers.inference.batcher import Batcher
from workers.inference.conversions import ConversionRunner
from workers.inference.explanations import ExplainerCache, ExplainOperation
from workers.inference.faces import FacesOperation
from workers.inference.forwarding import TaskForwarder
from workers.inference.heartbeat import HeartbeatPublisher
from workers.inference.inference_jobs import InferenceJobRunner
from workers.inference.installation import InstallationCheck
from workers.inference.liveness import ClipOperation, RecentClips
from workers.inference.loaded_models import LoadedModels
from workers.inference.loaders import (
    VersionLoader,
    explainer_loader,
    face_finder_opener,
    prepare_devices,
)
from workers.inference.model_import import CatalogImporter
from workers.inference.model_manager import ModelManager
from workers.inference.preload import Preloader, available_bytes
from workers.inference.queue import Cancellation, WorkerQueues
from workers.inference.statistics import InferenceStatistics
from workers.jobs.consents import Consents
from workers.scratch import temporary_files

log = structlog.get_logger()

_JOIN_SECONDS = 2.0


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        ValueError: `settings.redis_url` is missing.
    """
    if settings.redis_url is None:
        raise ValueError("a worker needs OPSIN_REDIS_URL")
    # Until Celery handles the signal: a worker that is stopped while it starts exits quietly.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logs(settings.log_level, settings.log_format)
    if not has_gpu():
        lower_priority(settings.worker_niceness)
    with temporary_files():
        _serve(settings, settings.redis_url)


def _serve(settings: Settings, redis_url: str) -> None:
    start_tracing(settings, "worker")
    metrics = Metrics()
    metrics.before_reading(process_reader(metrics, settings.home))
    client = redis.Redis.from_url(redis_url, **REDIS_OPTIONS)
    count_redis(client, metrics)
    worker = Worker(settings, client, celery_app(redis_url), metrics)
    publisher = MetricsPublisher(client, metrics, worker.id, "worker")
    worker.heartbeat.start()
    publisher.start()
    try:
        worker.consume()
    finally:
        worker.stopping.set()
        worker.close()
        worker.heartbeat.stop()
        publisher.stop()
        stop_tracing()
        log.info("worker_stopped")
    threads = [thread for thread in (worker.loading, worker.preloading) if thread.is_alive()]
    for thread in threads:
        thread.join(_JOIN_SECONDS)
    if any(thread.is_alive() for thread in threads):
        # A thread inside TensorFlow would crash while the interpreter shuts down.
        sys.stderr.flush()
        os._exit(0)


class Worker:
    """The parts of one worker.

    Args:
        settings: The whole configuration.
        client: A connection whose answers are bytes.
        app: Not connected yet.
        metrics: What this process counts.

    Attributes:
        heartbeat: Its heartbeat.
        stopping: Set when it has been told to stop.
        loading: The thread that loads and evicts versions; started by `consume`.
        preloading: The thread that loads what may be needed later; started by `loading`.
    """

    def __init__(
        self, settings: Settings, client: "redis.Redis", app: Celery, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._client = client
        self._app = app
        self._id = secrets.token_hex(8)
        self._configured = tuple(dict.fromkeys(settings.models))
        self._store = Store(settings.store_home)
        self._models = LoadedModels()
        self._celery_queues = (
            *map(queue_of, self._configured),
            redis_keys.inference_queue(TRAINED),
        )
        self._queues = WorkerQueues(client, self._id, tuple(dict.fromkeys(self._celery_queues)))
        self._forwarder = TaskForwarder(app, client, self._id)
        self.stopping = Event()
        self._clock = RedisClock()
        self._cancellation = Cancellation(self._queues, self.stopping, self._clock)
        self._faces = FacesOperation(face_finder_opener(settings), self._cancellation)
        self.heartbeat = HeartbeatPublisher(client, self._id, clock=self._clock)
        self._installation = InstallationCheck(settings.home, _end)
        self.heartbeat.set_installation(self._installation.home_id)
        self.heartbeat.set_checks(
            self._installation, self._queues.report_lost, self._queues.follow_shared_pixels
        )
        self.heartbeat.set_shared_pixels(lambda: self._queues.shared_pixels.names)
        self._statistics = InferenceStatistics()
        self._metrics = metrics
        self.heartbeat.set_statistics(self._statistics.read)
        options = RuntimeOptions.of(settings)
        loader = VersionLoader(self._store, settings.max_batch_size, options, self._faces)
        self._manager = ModelManager(
            self._store,
            self._configured,
            self._models,
            load=loader,
            queues=self._queues,
            heartbeat=self.heartbeat,
            max_trained=settings.trained_models,
            base_of=loader.base_of,
            available=available_bytes,
            metrics=metrics,
        )
        self._batcher = self._make_batcher()
        self.loading = Thread(target=self._load, name="loading", daemon=True)
        self.preloading = Thread(target=self._preload, name="preloading", daemon=True)

    @property
    def id(self) -> str:
        """Unique to this process."""
        return self._id

    def consume(self) -> None:
        """Take tasks until SIGTERM, then finish the current one."""
        self._manager.report()
        self._register_tasks()
        # Celery leaves logging alone once something is connected to this signal.
        celery.signals.setup_logging.connect(lambda **_: None, weak=False)
        celery.signals.worker_shutting_down.connect(lambda **_: self.stopping.set(), weak=False)
        # No version may be reported as ready before Celery consumes tasks.
        celery.signals.worker_ready.connect(
            lambda sender, **_: self._begin(sender.pool.executor), weak=False
        )
        worker = self._app.Worker(
            pool="threads",
            concurrency=1,
            queues=[
                *self._celery_queues,
                redis_keys.own_queue(self._id),
                redis_keys.CONVERSION_QUEUE,
            ],
            hostname=f"{self._id}@opsin",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        log.info("worker_starts", worker=self._id, models=self._configured)
        worker.start()

    def close(self) -> None:
        """Wait until every image that was taken is answered; call it when it consumes no more."""
        self._batcher.close()

    def _begin(self, pool: Executor) -> None:
        """Start the thread that answers, then the one that loads.

        Celery would start the first only when it is needed. If there were no memory left for it
        then, the worker would live, report so, and answer nothing.
        """
        pool.submit(int).result()
        self.loading.start()

    def _load(self) -> None:
        """The loading thread: load what is in the store, import what is missing, then reconcile."""
        try:
            self.heartbeat.set_devices(prepare_devices(self._settings))
            self._manager.reconcile(self.stopping)
            CatalogImporter(self._settings, self._store, self._manager, self.stopping).run()
            if not any(map(self._models.versions, self._configured)):
                log.error(
                    "nothing_to_serve", help="opsin weights pull; then start the worker again"
                )
            set_aside()  # of Python's objects; what is evicted later is collected all the same
            self.preloading.start()
            self._manager.run(self.stopping)
        except Exception:
            # A worker that can no longer load must not stay and look alive.
            log.exception("loading_failed")
            _end()

    def _preload(self) -> None:
        """The preloading thread."""
        Preloader(
            self._models,
            self._store,
            self._settings.preload_explanations,
            batcher=self._batcher,
            manager=self._manager,
            available=available_bytes,
        ).run(self.stopping)

    def _register_tasks(self) -> None:
        """Register the functions that run when a task arrives."""
        engine = open_engine(self._settings.database)
        count_database(engine, self._metrics)
        kept = self._settings.min_free_disk_bytes
        jobs = InferenceJobRunner(
            Leases(engine, DatabaseClock(engine), self._metrics),
            JobFiles.of(self._settings),
            self._models,
            self._id,
            batch_limit=self._settings.max_batch_size,
            batcher=self._batcher,
            consents=Consents.of(self._settings, engine),
            store=self._store,
            forwarder=self._forwarder,
            metrics=self._metrics,
            kept_bytes=kept if self._settings.database.startswith("sqlite") else 0,
        )
        conversions = ConversionRunner(self._store, self._client, kept)

        @self._app.task(name=redis_keys.TASK_BATCH)  # type: ignore[untyped-decorator]
        def run_queue(
            model: str, version: int, operation: Operation, group: str | None = None
        ) -> None:
            if not self._installation.may_take(self._client):
                return  # a worker of this home is sent another task
            name = QueueName(model, version, operation)
            self._batcher.run(name, None if group is None else QueueGroup(group))

        @self._app.task(name=redis_keys.TASK_RUN_JOB)  # type: ignore[untyped-decorator]
        def run_job(job_id: str, model: str) -> None:
            if not self._installation.may_take(self._client):
                return  # as if no worker had loaded the model
            if self._models.versions(model):
                jobs.run(job_id)
            else:
                # If no worker has loaded the model, the job stays queued and is sent again later.
                self._forwarder.forward_job(job_id, model)

        @self._app.task(name=redis_keys.TASK_CONVERT)  # type: ignore[untyped-decorator]
        def convert(model: str, version: int, kind: DerivedFormat) -> None:
            if self._installation.may_take(self._client):
                conversions.submit(model, version, kind)

    def _make_batcher(self) -> Batcher:
        explainers = ExplainerCache(
            explainer_loader(self._store, self._models, self._settings),
            self._settings.explainers,
            self._models,
        )
        self.heartbeat.set_trace_counter(lambda: explainers.traces)
        explain = ExplainOperation(explainers, self._cancellation)
        recent_clips = RecentClips(self._client)
        clip = ClipOperation(self._faces, recent_clips, self._cancellation, self._settings)
        return Batcher(
            self._queues,
            self._models,
            self._store,
            self._forwarder,
            {
                "heatmap": explain,
                "explain": explain,
                "study": explain,
                "faces": self._faces,
                "clip": clip,
            },
            batch_limit=self._settings.max_batch_size,
            threads=self._settings.worker_threads,
            linger_seconds=self._settings.linger_ms / 1000,
            stopping=self.stopping,
            clock=self._clock,
            statistics=self._statistics,
            metrics=self._metrics,
            end=_end,
        )


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
