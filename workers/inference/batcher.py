"""Forms batches: one Celery task answers all images that wait, a batch at a time.

They wait in one queue, or in the queues of a group of versions that share a base.

No timer delays an image: an idle worker takes a single image at once, and while it computes, the
next ones gather. So the busier the worker is, the fuller its batches are.

While a full batch is computed, other threads take the next ones (`BatchThreads`), if the version
computes several at once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import get_args

import structlog
from redis import RedisError

from contracts.inference.inference import Operation, VectorOperation
from contracts.metrics.registry import Metrics
from contracts.queue.messages import Reply
from contracts.queue.redis_keys import QueueGroup, QueueName
from models.catalog import queue_of
from models.serving.runtime import MOST_BATCHES
from models.store.aliases import DamagedAliasesError
from models.store.store import Store
from workers.inference.batch_runner import BatchRunner, OperationHandler, OutOfMemoryError
from workers.inference.batch_threads import BatchThreads
from workers.inference.forwarding import TaskForwarder
from workers.inference.loaded_models import LoadedModels
from workers.inference.queue import QueuedItem, Source, WorkerQueues
from workers.inference.statistics import InferenceStatistics

log = structlog.get_logger()

# After this long, other queues and jobs get their turn, however many images still arrive.
_TURN_SECONDS = 0.25
# A stop is noticed after at most this long.
_WAIT_SECONDS = 0.1
# At least so often, each queue is looked at between the steps of a slow operation.
_LOOK_SECONDS = 1.0
_OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_VECTOR_OPERATIONS: tuple[VectorOperation, ...] = get_args(VectorOperation)
# One image of a study may take minutes: what this worker does not take, another may. Images with
# faces are large and contain any number of them; a clip has hundreds of frames.
_BATCH_LIMITS: dict[Operation, int] = {"explain": 4, "faces": 4, "clip": 1, "study": 1}


@dataclass(frozen=True, slots=True)
class _Turn:
    """What a task answers before others get their turn.

    Attributes:
        source: A queue, or a group of them.
        limit: The most images of a batch.
        threads: How many other threads may answer batches beside the first one.
        ends: In seconds of `time.monotonic`.
    """

    source: Source
    limit: int
    threads: int
    ends: float

    @property
    def group(self) -> QueueGroup | None:
        """The group, if it is one."""
        return self.source if isinstance(self.source, QueueGroup) else None


@dataclass(frozen=True, slots=True)
class _Batch:
    """Images that were taken, and when that began and ended, in Unix nanoseconds."""

    taken: Sequence[QueuedItem]
    took: tuple[int, int]


class Batcher:
    """Runs the images of the queues through one worker's networks.

    Args:
        queues: The queues in Redis.
        models: The versions in memory.
        store: Says to which versions an alias points.
        forwarder: Sends tasks to other workers.
        handlers: Compute the operations that give more than a vector.
        batch_limit: The most images that are computed at once.
        threads: How many threads may answer batches, at least one.
        linger_seconds: How long to wait for the next image before returning to Celery.
        stopping: Set when the worker has been told to stop; the current batch is still answered.
        clock: Unix time in seconds, by the clock of the deadlines.
        statistics: Counts what is computed.
        metrics: Likewise, for Prometheus.
        end: Ends this process in an orderly way; called when it has no memory left.
    """

    def __init__(
        self,
        queues: WorkerQueues,
        models: LoadedModels,
        store: Store,
        forwarder: TaskForwarder,
        handlers: Mapping[Operation, OperationHandler],
        *,
        batch_limit: int,
        threads: int = 2,
        linger_seconds: float,
        stopping: Event,
        clock: Callable[[], float],
        statistics: InferenceStatistics | None = None,
        metrics: Metrics | None = None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._end = end
        self._queues = queues
        self._models = models
        self._store = store
        self._forwarder = forwarder
        self._batch_limit = batch_limit
        self._linger_seconds = linger_seconds
        self._stopping = stopping
        self._clock = clock
        self._threads = BatchThreads(max(1, min(threads, MOST_BATCHES) - 1))
        self._looked_at = 0.0
        self._runner = BatchRunner(
            queues,
            handlers,
            run_faster=self.run_faster_queues,
            clock=clock,
            statistics=statistics or InferenceStatistics(),
            metrics=metrics or Metrics(),
        )

    @property
    def idle_seconds(self) -> float:
        """How long nothing has been computed; 0 during a computation."""
        return self._runner.idle_seconds

    def close(self) -> None:
        """Wait until all threads have answered their batches; call it when `stopping` is set."""
        self._threads.close()

    def run(
        self, queue: QueueName, group: QueueGroup | None = None, *, is_visit: bool = False
    ) -> int:
        """Answer what waits, for one turn; return the number of images this thread answered.

        Args:
            queue: What to process.
            group: What to process in place of the queue, which is one of its own.
            is_visit: Whether this is between the steps of something else. The queue's task is then
                still on its way; if each visit had another one sent, they would pile up.
        """
        named = self._loaded_of(queue, group)
        if named is None:
            self._reject(queue, group)
            return 0
        celery_queue = queue_of(queue.model)
        turn = self._turn(group or queue, named)
        if is_visit:
            self._queues.renew_scheduled(turn.source, celery_queue)
        else:
            self._queues.clear_scheduled(turn.source, celery_queue)
        answered = 0
        while batch := self._next_batch(turn):
            self._begin_more(turn, batch)
            answered += self._answer(batch, group)
            if group is None and self._loaded_of(queue, None) is None:
                break  # it has just been dropped, and another worker got the task
            if self._is_over(turn):
                # The next task answers the rest, on this worker or another. It waits behind jobs
                # and other queues, which endless traffic would otherwise block.
                if not is_visit and self._queues.set_scheduled(turn.source, celery_queue):
                    self._forwarder.schedule(named, group)
                break
        return answered

    def run_faster_queues(self, than: Operation = "explain") -> None:
        """Run all queues and groups whose task waits for this worker.

        If Redis is lost, only this visit ends: what it comes between does not need Redis.

        Args:
            than: Only queues of operations that come before this one.
        """
        try:
            self._visit(than)
        except RedisError as error:
            log.warning("faster_queues_wait", why=type(error).__name__)

    def _visit(self, than: Operation) -> None:
        faster = _OPERATIONS[: _OPERATIONS.index(than)]
        sources = list(self._queues.noted())
        now = time.monotonic()
        if now > self._looked_at + _LOOK_SECONDS:
            # API processes of the release before note nothing.
            self._looked_at = now
            sources += [queue for queue in self._all_queues() if queue not in sources]
        for source in self._queues.waiting(sources):
            if isinstance(source, QueueGroup):
                if (member := self._member_of(source)) is not None:
                    self.run(member, source, is_visit=True)
            elif source.operation in faster and self._loaded_of(source, None) is not None:
                self.run(source, is_visit=True)

    def _loaded_of(self, queue: QueueName, group: QueueGroup | None) -> QueueName | None:
        """The queue, or another one of its group, whose version is loaded; None if none is."""
        if self._models.get(queue.model, queue.version) is not None:
            return queue
        return None if group is None else self._member_of(group)

    def _member_of(self, group: QueueGroup) -> QueueName | None:
        """A queue of a group, whose version is loaded; None if there is none."""
        for model, version in self._models.all():
            if self._models.group(model, version) == group:
                return QueueName(model, version, "classify")
        return None

    def _turn(self, source: Source, queue: QueueName) -> _Turn:
        """A turn that begins now, for images like those of a queue."""
        limit, threads = _BATCH_LIMITS.get(queue.operation, self._batch_limit), 1
        predictor = self._models.get(queue.model, queue.version)
        if predictor is not None and queue.operation in _VECTOR_OPERATIONS:
            limit, threads = min(limit, predictor.batch_limit), predictor.batch_threads
        elif predictor is not None:
            limit = min(limit, predictor.batch_sizes[-1])
        return _Turn(source, limit, threads - 1, time.monotonic() + _TURN_SECONDS)

    def _is_over(self, turn: _Turn) -> bool:
        return self._stopping.is_set() or time.monotonic() > turn.ends

    def _all_queues(self) -> list[QueueName]:
        """Every queue of the loaded versions."""
        return [
            QueueName(model, version, operation)
            for model, version in self._models.all()
            for operation in _OPERATIONS
        ]

    def _reject(self, queue: QueueName, group: QueueGroup | None = None) -> None:
        """Handle a task for a version that is not loaded here, nor any other of the group.

        Another worker may have loaded it, or one may load it later. The images stay in the queue,
        so that none is lost, unless the version can no longer be loaded: then the clients are
        answered at once, and the API retries with the next version.
        """
        if self._forwarder.forward_batch(queue, group):
            return
        # So that the API's recovery sends another task.
        self._queues.clear_scheduled(group or queue, queue_of(queue.model))
        try:
            is_named = queue.version in self._store.aliases(queue.model).values()
        except DamagedAliasesError:
            is_named = True  # for all that is known
        if is_named:
            log.info("version_not_loaded", queue=queue.key)
            return
        error = (
            "model_not_ready",
            f"Version {queue.version} of '{queue.model}' was taken out of service. Retry.",
        )
        while items := self._queues.take(queue, self._batch_limit):
            replies = [Reply(item.id, queue.version, 1, 0, 0, error=error) for item in items]
            try:
                self._queues.send_replies(list(zip(items, replies, strict=True)), {queue: 1.0})
            finally:
                self._queues.let_go(items)

    def _begin_more(self, turn: _Turn, batch: _Batch) -> None:
        """Let another thread answer what waits, if more than this batch may wait."""
        if turn.threads and len(batch.taken) == turn.limit:
            self._threads.begin(partial(self._answer_more, turn), turn.threads)

    def _answer_more(self, turn: _Turn) -> None:
        """Answer batches for as long as there are any; run by the other threads.

        They too wait a moment for the next images: those that come just after a thread has found
        none would otherwise wait until the batches that are being computed are answered.
        """
        while not self._is_over(turn) and (batch := self._next_batch(turn)):
            self._begin_more(turn, batch)
            self._answer(batch, turn.group)
            if isinstance(turn.source, QueueName) and self._loaded_of(turn.source, None) is None:
                break  # as in `run`

    def _next_batch(self, turn: _Turn) -> _Batch | None:
        """The next images; waits a moment for them unless another task or a stop is pending."""
        until = time.monotonic() + self._linger_seconds
        while (batch := self._take(turn)) is not None and not batch.taken:
            seconds_left = until - time.monotonic()
            if seconds_left <= 0 or self._stopping.is_set():
                return None
            self._queues.wait_for_push(turn.source, min(seconds_left, _WAIT_SECONDS))
        return batch

    def _take(self, turn: _Turn) -> _Batch | None:
        """Images, or none of them; None if another task is on its way and gets its turn."""
        began = time.time_ns()
        taken = self._queues.take_unless(turn.source, turn.limit)
        return None if taken is None else _Batch(taken, (began, time.time_ns()))

    def _answer(self, batch: _Batch, group: QueueGroup | None) -> int:
        """Answer what was taken, and give back what this worker cannot; return how many."""
        try:
            return self._answer_loaded(batch, group)
        finally:
            self._queues.let_go(one.item for one in batch.taken)

    def _answer_loaded(self, batch: _Batch, group: QueueGroup | None) -> int:
        """Answer what this worker has loaded the versions of; return the number of images."""
        queues = dict.fromkeys(one.queue for one in batch.taken)
        loaded = {queue: self._models.get(queue.model, queue.version) for queue in queues}
        predictors = {queue: one for queue, one in loaded.items() if one is not None}
        for queue in queues.keys() - predictors.keys():
            # Another worker has loaded more versions of the group, or this one has just dropped it.
            items = [one.item for one in batch.taken if one.queue == queue]
            self._queues.give_back(queue, items, self._clock(), group)
            self._reject(queue)
        ours = [one for one in batch.taken if one.queue in predictors]
        if not ours:
            return 0
        try:
            return self._runner.answer(ours, predictors, batch.took)
        except OutOfMemoryError:
            # Its images stay claimed: once it is gone, the API queues them for its successor.
            self.end_without_memory()
            raise

    def end_without_memory(self) -> None:
        """End the worker, whose successor may have memory."""
        log.error("out_of_memory", help="The worker ends, and is started again.")
        self._stopping.set()
        self._end()
