"""An inference worker, from start to stop: beat, consume, load, finish what is in hand.

One process, one pool thread: the runtimes spread a batch over the cores by themselves, and leaving
prefork means that nothing is ever forked after TensorFlow has started. A second thread loads and
drops versions while the first one answers.
"""

import os
import secrets
import signal
import sys
from concurrent.futures import Executor
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, get_args

import celery.signals
import redis
import structlog
from celery import Celery

from contracts.inference.inference import LaneOperation
from contracts.logs import configure_logs
from contracts.queue import redis_keys
from contracts.queue.celery import REDIS_OPTIONS, celery_app
from contracts.settings import Settings
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.leases import Leases
from models.catalog import TRAINED, queue_of
from models.serving.runtime import RuntimeOptions
from models.store.derived import Derived
from models.store.store import Store
from workers.inference.batcher import Drain
from workers.inference.conversions import Conversions
from workers.inference.explanations import Explainers, Explaining
from workers.inference.faces import Faces
from workers.inference.forwarding import Elsewhere
from workers.inference.heartbeat import Presence
from workers.inference.inference_jobs import JobRunner
from workers.inference.liveness import Clips, SeenClips
from workers.inference.loaded_models import Held
from workers.inference.loaders import ZooImports, explainer_loader, finder_opener, loader, prepare
from workers.inference.model_manager import Versions
from workers.inference.preload import Preloading, available_bytes
from workers.inference.queue import LaneName, Lanes

if TYPE_CHECKING:
    from models.faces.liveness.video import VideoLimits

log = structlog.get_logger()

_SEEN_SECONDS = 2.0


def run(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        ValueError: `settings.redis_url` is missing.
    """
    if settings.redis_url is None:
        raise ValueError("a worker needs OPSIN_REDIS_URL")
    # Until Celery takes the signal over: a worker told to stop as it starts goes quietly.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    configure_logs(settings.log_level, settings.log_format)
    worker = Worker(settings, redis.Redis.from_url(settings.redis_url, **REDIS_OPTIONS))
    worker.presence.start()
    try:
        worker.consume(celery_app(settings.redis_url))
    finally:
        worker.stopping.set()
        worker.presence.stop()
        log.info("worker_stopped")
    beside = [thread for thread in (worker.loading, worker.preloading) if thread.is_alive()]
    for thread in beside:
        thread.join(_SEEN_SECONDS)
    if any(thread.is_alive() for thread in beside):
        # One is deep inside TensorFlow, which does not survive the interpreter's tidying up.
        sys.stderr.flush()
        os._exit(0)


class Worker:
    """The parts of one worker, put together.

    Args:
        settings: The whole configuration.
        client: A connection whose answers are bytes.

    Attributes:
        presence: Its signs of life.
        stopping: Set when it was told to stop.
        loading: The thread that loads and drops versions; started by `consume`.
        preloading: The thread that loads what may be asked for later; started by `loading`.
    """

    def __init__(self, settings: Settings, client: "redis.Redis") -> None:
        self._settings = settings
        self._client = client
        self.stopping = Event()
        self._id = secrets.token_hex(8)
        self._models = tuple(dict.fromkeys(settings.models))
        self._store = Store(settings.store_home)
        self._held = Held()
        self._lanes = Lanes(client, self._id)
        self._faces = Faces(
            finder_opener(settings),
            is_abandoned=self._lanes.is_abandoned,
            stopping=self.stopping,
        )
        self.presence = Presence(client, self._id)
        self._versions = Versions(
            self._store,
            self._models,
            self._held,
            load=loader(
                self._store,
                settings.max_batch_size,
                RuntimeOptions.of(settings),
                before_faces=self._faces.prepare,
            ),
            waiting=self._waiting,
            tell=self.presence.tell,
            most_trained=settings.trained_models,
        )
        self.loading = Thread(target=self._load, name="loading", daemon=True)
        self._drain: Drain | None = None
        self.preloading = Thread(target=self._preload, name="preloading", daemon=True)

    def consume(self, app: Celery) -> None:
        """Take tasks until SIGTERM, then finish the one in hand."""
        self._versions.tell()
        self._register(app)
        # Connecting to this signal is how Celery is told to leave logging alone.
        celery.signals.setup_logging.connect(lambda **_: None, weak=False)
        celery.signals.worker_shutting_down.connect(lambda **_: self.stopping.set(), weak=False)
        # Nothing is told to be ready before there is somebody who listens.
        celery.signals.worker_ready.connect(
            lambda sender, **_: self._begin(sender.pool.executor), weak=False
        )
        worker = app.Worker(
            pool="threads",
            concurrency=1,
            queues=[
                *map(queue_of, self._models),
                redis_keys.inference_queue(TRAINED),
                redis_keys.own_queue(self._id),
                redis_keys.CONVERSION_QUEUE,
            ],
            hostname=f"{self._id}@opsin",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        log.info("worker_starts", worker=self._id, models=self._models)
        worker.start()

    def _begin(self, pool: Executor) -> None:
        """Start the thread that answers, then the one that loads.

        Celery would start the first when it is needed. Where there is no memory for it any more,
        the worker would live, tell so, and answer nobody.
        """
        pool.submit(int).result()
        self.loading.start()

    def _load(self) -> None:
        """The loading thread: what is in the store, then what must be imported, then the watch."""
        try:
            self.presence.tell_devices(prepare(self._settings))
            self._versions.look(self.stopping)
            ZooImports(self._settings, self._store, self._versions, self.stopping)()
            if not any(map(self._held.versions, self._models)):
                log.error(
                    "nothing_to_serve", help="opsin weights pull; then start the worker again"
                )
            self.preloading.start()
            self._versions.watch(self.stopping)
        except Exception:
            # A worker that cannot load any more must not stay and look alive.
            log.exception("loading_failed")
            os.kill(os.getpid(), signal.SIGTERM)

    def _preload(self) -> None:
        """The preloading thread."""
        if self._drain is None:
            raise RuntimeError("nothing drains yet")
        Preloading(
            self._held,
            self._store,
            self._settings.preload_explanations,
            idle=self._drain,
            is_loading=lambda: self._versions.is_loading,
            available=available_bytes,
        ).watch(self.stopping)

    def _waiting(self, model: str, version: int) -> int:
        """Images in the lanes of a version; when Redis is away, as if there were some."""
        try:
            lanes = [redis_keys.lane(model, version, one) for one in get_args(LaneOperation)]
            return sum([self._client.llen(lane) for lane in lanes])
        except redis.RedisError:
            return 1

    def _register(self, app: Celery) -> None:
        """Give the application its tasks."""

        def send(task: str, args: list[Any], queue: str) -> None:
            expires = redis_keys.FLAG_EXPIRE_MS / 1000 if task == redis_keys.TASK_DRAIN else None
            app.send_task(task, args=args, queue=queue, expires=expires)

        elsewhere = Elsewhere(self._client, self._id, send)
        drain = self._drain = self._make_drain(elsewhere, send)
        run_job = self._job_runner(drain)
        conversions = Conversions(self._store, self._client)

        @app.task(name=redis_keys.TASK_DRAIN)  # type: ignore[untyped-decorator]
        def drain_task(model: str, version: int, operation: LaneOperation) -> None:
            drain(LaneName(model, version, operation))

        @app.task(name=redis_keys.TASK_RUN_JOB)  # type: ignore[untyped-decorator]
        def run_job_task(job_id: str, model: str) -> None:
            if self._held.versions(model):
                run_job(job_id)
            else:
                # Where nobody holds the model the job stays queued, and is sent again later.
                elsewhere.pass_on(redis_keys.TASK_RUN_JOB, [job_id, model], model, None)

        @app.task(name=redis_keys.TASK_CONVERT)  # type: ignore[untyped-decorator]
        def convert_task(model: str, version: int, kind: Derived) -> None:
            conversions(model, version, kind)

    def _make_drain(self, elsewhere: Elsewhere, send: Any) -> Drain:
        def args(lane: LaneName) -> list[Any]:
            return [lane.model, lane.version, lane.operation]

        explainers = Explainers(
            explainer_loader(self._store, self._held, self._settings),
            self._settings.explainers,
            lambda model, version: self._held.get(model, version) is not None,
        )
        explaining = Explaining(
            explainers, is_abandoned=self._lanes.is_abandoned, stopping=self.stopping
        )
        self.presence.count_traces(lambda: explainers.traces)
        return Drain(
            self._lanes,
            self._held,
            batch_limit=self._settings.max_batch_size,
            linger_seconds=self._settings.linger_ms / 1000,
            stopping=self.stopping,
            schedule=lambda lane: send(redis_keys.TASK_DRAIN, args(lane), queue_of(lane.model)),
            pass_on=lambda lane: elsewhere.pass_on(
                redis_keys.TASK_DRAIN, args(lane), lane.model, lane.version
            ),
            is_past=lambda lane: lane.version not in self._store.aliases(lane.model).values(),
            answerers={
                "heatmap": explaining,
                "explain": explaining,
                "study": explaining,
                "faces": self._faces,
                "clip": self._clips(),
            },
        )

    def _clips(self) -> Clips:
        def limits() -> "VideoLimits":
            from models.faces.liveness.video import VideoLimits  # when a clip has come

            return VideoLimits.of(self._settings)

        return Clips(
            self._faces.finder,
            limits,
            SeenClips(self._client),
            is_abandoned=self._lanes.is_abandoned,
            stopping=self.stopping,
        )

    def _job_runner(self, drain: Drain) -> JobRunner:
        leases = Leases(open_engine(self._settings.database), lambda: datetime.now(UTC))
        return JobRunner(
            leases,
            self._client,
            JobFiles.of(self._settings),
            self._held,
            self._id,
            batch_limit=self._settings.max_batch_size,
            give_way=drain.relieve,
        )
