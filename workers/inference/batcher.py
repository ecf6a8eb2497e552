"""Forms batches: one Celery task answers all images that wait in a queue, a batch at a time.

No timer delays an image: an idle worker takes a single image at once, and while it computes, the
next ones gather. So the busier the worker is, the fuller its batches are.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any, Protocol, get_args

import numpy as np
import structlog

from contracts.errors import OpsinError
from contracts.inference.inference import Operation, VectorOperation
from contracts.metrics.registry import Metrics
from contracts.queue.messages import Item, Reply
from contracts.queue.redis_keys import QueueName
from models.store.aliases import DamagedAliasesError
from models.store.store import Store
from workers.inference.batch_trace import BatchTrace, batch_trace
from workers.inference.forwarding import TaskForwarder
from workers.inference.loaded_models import LoadedModels, Predictor
from workers.inference.queue import ItemOutput, WorkerQueues
from workers.inference.statistics import InferenceStatistics

log = structlog.get_logger()

# After this long, other queues and jobs get their turn, however many images still arrive.
_TURN_SECONDS = 0.25
# A stop is noticed after at most this long.
_WAIT_SECONDS = 0.1
_RATE_SMOOTHING = 0.3
_OPERATIONS: tuple[Operation, ...] = get_args(Operation)
_VECTOR_OPERATIONS: tuple[VectorOperation, ...] = get_args(VectorOperation)
# One image of a study may take minutes: what this worker does not take, another may. Images with
# faces are large and contain any number of them; a clip has hundreds of frames.
_BATCH_LIMITS: dict[Operation, int] = {"faces": 4, "clip": 1, "study": 1}


class OperationHandler(Protocol):
    """Computes an operation that is more than one vector per image, such as an explanation."""

    def compute(
        self,
        queue: QueueName,
        predictor: Predictor,
        items: Sequence[Item],
        run_faster: Callable[[], None],
    ) -> Sequence[ItemOutput]:
        """One output for each item.

        Args:
            queue: Where the items come from.
            predictor: The version.
            items: Images of one size, with equal notes.
            run_faster: Answers what waits in faster queues; to be called between two steps.
        """
        ...


class Batcher:
    """Runs the images of the queues through one worker's networks.

    Args:
        queues: The queues in Redis.
        models: The versions in memory.
        store: Says to which versions an alias points.
        forwarder: Sends tasks to other workers.
        handlers: Compute the operations that give more than a vector.
        batch_limit: The largest batch.
        linger_seconds: How long to wait for the next image before returning to Celery.
        stopping: Set when the worker has been told to stop; the current batch is still answered.
        clock: Unix time in seconds.
        statistics: Counts what is computed.
        metrics: Likewise, for Prometheus.
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
        linger_seconds: float,
        stopping: Event,
        clock: Callable[[], float] = time.time,
        statistics: InferenceStatistics | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._statistics = statistics or InferenceStatistics()
        self._queues = queues
        self._models = models
        self._store = store
        self._forwarder = forwarder
        self._handlers = handlers
        self._batch_limit = batch_limit
        self._linger_seconds = linger_seconds
        self._stopping = stopping
        self._clock = clock
        self._rates: dict[QueueName, float] = {}
        self._took = (0, 0)
        self._log: Any = log.bind()  # once: it is used for each batch, mostly below its level
        self._computing = 0
        self._computed_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long nothing has been computed; 0 during a computation."""
        return 0.0 if self._computing else time.monotonic() - self._computed_at

    def run(self, queue: QueueName) -> int:
        """Answer what waits in a queue, for one turn; return the number of images answered."""
        predictor = self._models.get(queue.model, queue.version)
        if predictor is None:
            self._reject(queue)
            return 0
        others = [other for other in self._all_queues() if other != queue]
        # A larger batch would run in pieces, and the first piece would wait for the last.
        largest = min(self._batch_limit, predictor.batch_sizes[-1])
        limit = _BATCH_LIMITS.get(queue.operation, largest)
        self._queues.clear_scheduled(queue)
        answered, turn_ends = 0, time.monotonic() + _TURN_SECONDS
        while items := self._next_batch(queue, others, limit):
            answered += self._answer(queue, predictor, items)
            if self._stopping.is_set() or time.monotonic() > turn_ends:
                # The next task answers the rest, on this worker or another. It waits behind jobs
                # and other queues, which endless traffic would otherwise block.
                if self._queues.set_scheduled(queue):
                    self._forwarder.schedule(queue)
                break
        return answered

    def run_faster_queues(self, than: Operation = "explain") -> None:
        """Run all queues whose task waits for this worker.

        Args:
            than: Only queues of operations that come before this one.
        """
        faster = _OPERATIONS[: _OPERATIONS.index(than)]
        queues = [queue for queue in self._all_queues() if queue.operation in faster]
        for queue in self._queues.scheduled(queues):
            self.run(queue)

    def _all_queues(self) -> list[QueueName]:
        """Every queue of the loaded versions."""
        return [
            QueueName(model, version, operation)
            for model, version in self._models.all()
            for operation in _OPERATIONS
        ]

    def _reject(self, queue: QueueName) -> None:
        """Handle a task for a version that is not loaded here.

        Another worker may have loaded it, or one may load it later. The images stay in the queue,
        so that none is lost, unless the version can no longer be loaded: then the clients are
        answered at once, and the API retries with the next version.
        """
        if self._forwarder.forward_batch(queue):
            return
        self._queues.clear_scheduled(queue)  # so that the API's recovery sends another task
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
            self._queues.send_replies(queue, list(zip(items, replies, strict=True)), 1.0)

    def _next_batch(self, queue: QueueName, others: Sequence[QueueName], limit: int) -> list[Item]:
        """The next images; waits a moment for them unless another queue or a stop is pending."""
        until = time.monotonic() + self._linger_seconds
        while not (items := self._take(queue, others, limit)):
            seconds_left = until - time.monotonic()
            if items is None or seconds_left <= 0 or self._stopping.is_set():
                return []
            pushed = self._queues.wait_for_push([queue, *others], min(seconds_left, _WAIT_SECONDS))
            if pushed not in (None, queue):
                return []  # the task of another queue is on its way and gets its turn
        return items

    def _take(self, queue: QueueName, others: Sequence[QueueName], limit: int) -> list[Item] | None:
        began = time.time_ns()
        items = self._queues.take_unless(queue, limit, others)
        self._took = (began, time.time_ns())
        return items

    def _answer(self, queue: QueueName, predictor: Predictor, items: list[Item]) -> int:
        """Compute and answer the items whose deadline has not passed; return their number."""
        trace = batch_trace(queue, items, self._took)
        with structlog.contextvars.bound_contextvars(**_log_fields(queue, items)):
            try:
                return self._answer_in_time(queue, predictor, items, trace)
            finally:
                if trace is not None:
                    trace.end()

    def _answer_in_time(
        self, queue: QueueName, predictor: Predictor, items: list[Item], trace: BatchTrace | None
    ) -> int:
        now = self._clock()
        late = [item for item in items if item.deadline <= now]
        self._queues.drop(late)
        labels = (queue.model, str(queue.version), queue.operation)
        if late:
            self._metrics.inc("dropped_images_total", *labels, "deadline_exceeded", by=len(late))
        in_time = [item for item in items if item.deadline > now]
        for group in _group_by_shape(in_time):
            began = time.monotonic()
            self._computing += 1  # a counter, because faster queues run within slower ones
            try:
                replies = self._run_batch(queue, predictor, group, now, trace)
            finally:
                self._computing -= 1
                self._computed_at = time.monotonic()
            rate = len(group) / max(time.monotonic() - began, 1e-6)
            before = self._rates.get(queue)
            self._rates[queue] = before + _RATE_SMOOTHING * (rate - before) if before else rate
            pairs = list(zip(group, replies, strict=True))
            began, began_at = time.monotonic(), time.time_ns()
            for reply in replies:
                code = reply.error[0] if reply.error else ""
                self._metrics.inc("computed_images_total", *labels, code)
            self._queues.send_replies(queue, pairs, self._rates[queue])
            self._metrics.observe("reply_seconds", time.monotonic() - began, *labels)
            if trace is not None:
                trace.replied(began_at)
        return len(in_time)

    def _run_batch(
        self,
        queue: QueueName,
        predictor: Predictor,
        items: Sequence[Item],
        now: float,
        trace: BatchTrace | None,
    ) -> list[Reply]:
        began, began_at = time.monotonic(), time.time_ns()
        waits = [max(0.0, now - item.enqueued) for item in items]
        try:
            outputs = self._compute(queue, predictor, items)
        except OpsinError as failure:
            if trace is not None:
                trace.ran(items, waits, began_at, failure.code)
            error = (failure.code, failure.detail)
            return [Reply(item.id, predictor.version, 1, 0, 0, error=error) for item in items]
        except Exception:
            log.exception("batch_failed", size=len(items), **_origins(items))
            if trace is not None:
                trace.ran(items, waits, began_at, "internal_error")
            if len(items) == 1:
                self._statistics.record_failure(queue.model, predictor.version)
                error = ("internal_error", "The network failed on this image.")
                return [Reply(items[0].id, predictor.version, 1, 0, 0, error=error)]
            # One bad image must not fail the others.
            return [self._run_batch(queue, predictor, [item], now, trace)[0] for item in items]
        seconds = time.monotonic() - began
        if trace is not None:
            trace.ran(items, waits, began_at, "")
        self._count_batch(queue, waits, seconds)
        if queue.operation in _VECTOR_OPERATIONS:
            self._statistics.record(
                queue.model,
                predictor.version,
                size=len(items),
                queue_seconds=sum(waits),
                compute_seconds=seconds,
                at=now,
            )
        return [
            Reply(
                item.id,
                predictor.version,
                len(items),
                waited,
                seconds,
                vector=output.vector,
                note=output.note,
            )
            for item, output, waited in zip(items, outputs, waits, strict=True)
        ]

    def _count_batch(self, queue: QueueName, waits: Sequence[float], seconds: float) -> None:
        metrics, labels = self._metrics, (queue.model, str(queue.version), queue.operation)
        self._log.debug("batch", images=len(waits), compute_ms=round(seconds * 1000, 1))
        metrics.inc("executions_total", *labels)
        metrics.observe("batch_images", len(waits), *labels)
        metrics.observe("compute_seconds", seconds, *labels)
        for waited in waits:
            metrics.observe("queue_seconds", waited, *labels)

    def _compute(
        self, queue: QueueName, predictor: Predictor, items: Sequence[Item]
    ) -> Sequence[ItemOutput]:
        outputs: Sequence[ItemOutput]
        for operation in _VECTOR_OPERATIONS:
            if queue.operation == operation:
                vectors = predictor.run(operation, np.stack([item.pixels for item in items]))
                outputs = [ItemOutput(vector) for vector in vectors]
                break
        else:
            handler = self._handlers[queue.operation]
            outputs = handler.compute(
                queue, predictor, items, lambda: self.run_faster_queues(queue.operation)
            )
        if not all(np.isfinite(output.vector).all() for output in outputs):
            raise FloatingPointError(f"{queue.key} gave a value that is not a number")
        return outputs


def _log_fields(queue: QueueName, items: Sequence[Item]) -> dict[str, Any]:
    """For every log line during a batch."""
    served = {"model": queue.model, "version": queue.version, "operation": queue.operation}
    return served | _origins(items)


def _origins(items: Sequence[Item]) -> dict[str, Any]:
    """The requests of these images, for a log line: one, or a list of several."""
    origins = list(dict.fromkeys(item.origin for item in items))
    if len(origins) == 1:
        return dict(origins[0].log_fields)
    fields = [origin.log_fields for origin in origins]
    return {
        f"{name}s": values
        for name in ("request_id", "trace_id")
        if (values := [one[name] for one in fields if name in one])
    }


def _group_by_shape(items: Sequence[Item]) -> list[list[Item]]:
    """Groups of items with equal image size and note, so that each group is one array."""
    groups: dict[tuple[tuple[int, ...], bytes], list[Item]] = {}
    for item in items:
        groups.setdefault((item.pixels.shape, item.note), []).append(item)
    return list(groups.values())
