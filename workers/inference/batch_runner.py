"""Computes a batch that was taken from the queues, and sends the replies.

Its images may belong to several versions. Those that share a base run through it together; what
follows the base is computed for each version and operation by itself.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock, get_ident
from typing import Any, Protocol, TypeAlias, get_args

import numpy as np
import structlog

from contracts.errors import OpsinError
from contracts.failures import is_out_of_memory
from contracts.inference.inference import Operation, VectorOperation
from contracts.metrics.registry import Metrics
from contracts.queue.messages import Item, Reply, Vector
from contracts.queue.redis_keys import QueueName
from workers.inference.batch_trace import BatchTrace, batch_trace
from workers.inference.loaded_models import Predictor, SharedBase
from workers.inference.queue import ItemOutput, QueuedItem, WorkerQueues
from workers.inference.statistics import InferenceStatistics

log = structlog.get_logger()

_RATE_SMOOTHING = 0.3
_VECTOR_OPERATIONS: tuple[VectorOperation, ...] = get_args(VectorOperation)

Traces: TypeAlias = dict[QueueName, BatchTrace | None]


class OutOfMemoryError(RuntimeError):
    """This process has no memory for a single image, which another process may have."""


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


@dataclass(frozen=True, slots=True)
class Share:
    """The images of one queue among those that run together."""

    queue: QueueName
    predictor: Predictor
    items: Sequence[Item]

    @property
    def operation(self) -> VectorOperation | None:
        """Its operation, if that gives nothing but a vector for each image."""
        return next((name for name in _VECTOR_OPERATIONS if name == self.queue.operation), None)

    @property
    def labels(self) -> tuple[str, str, str]:
        """For the metrics."""
        return self.queue.model, str(self.queue.version), self.queue.operation


@dataclass(frozen=True, slots=True)
class _Run:
    """How a batch ran.

    Attributes:
        size: The items of all shares.
        images: How many images they are, of which several models may have been asked about one.
        now: Unix time in seconds when it began, by the clock of the deadlines.
        began_at: Likewise, in nanoseconds by this host's clock.
        seconds: How long it took.
    """

    size: int
    images: int
    now: float
    began_at: int
    seconds: float


class BatchRunner:
    """Computes batches, and counts and traces what they took; any thread may do so.

    Args:
        queues: Where the replies go.
        handlers: Compute the operations that give more than a vector.
        run_faster: Runs the queues that are faster than this operation.
        clock: Unix time in seconds.
        statistics: Counts what is computed.
        metrics: Likewise, for Prometheus.
    """

    def __init__(
        self,
        queues: WorkerQueues,
        handlers: Mapping[Operation, OperationHandler],
        *,
        run_faster: Callable[[Operation], None],
        clock: Callable[[], float],
        statistics: InferenceStatistics,
        metrics: Metrics,
    ) -> None:
        self._queues = queues
        self._handlers = handlers
        self._run_faster = run_faster
        self._clock = clock
        self._statistics = statistics
        self._metrics = metrics
        self._rates: dict[QueueName, float] = {}
        self._log: Any = log.bind()  # once: it is used for each batch, mostly below its level
        self._answering: set[int] = set()  # threads
        self._counting = Lock()
        self._computing = 0
        self._computed_at = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """How long nothing has been computed; 0 during a computation."""
        return 0.0 if self._computing else time.monotonic() - self._computed_at

    def answer(
        self,
        taken: Sequence[QueuedItem],
        predictors: Mapping[QueueName, Predictor],
        took: tuple[int, int],
    ) -> int:
        """Compute and answer the items whose deadline has not passed; return their number.

        Args:
            taken: What was taken.
            predictors: The version of each queue.
            took: When taking them began and ended, in Unix nanoseconds.

        Raises:
            OutOfMemoryError: Not even one of the images could be computed alone. None of those that
                ran together is answered, except those on which a worker has ended before.
        """
        by_queue: dict[QueueName, list[Item]] = {}
        for one in taken:
            by_queue.setdefault(one.queue, []).append(one.item)
        traces = {queue: batch_trace(queue, items, took) for queue, items in by_queue.items()}
        with structlog.contextvars.bound_contextvars(**_log_fields(by_queue)):
            try:
                with self._present():
                    return self._answer_in_time(by_queue, predictors, traces)
            finally:
                for trace in filter(None, traces.values()):
                    trace.end()

    def _answer_in_time(
        self,
        by_queue: Mapping[QueueName, Sequence[Item]],
        predictors: Mapping[QueueName, Predictor],
        traces: Traces,
    ) -> int:
        now, shares = self._clock(), []
        for queue, items in by_queue.items():
            late = [item for item in items if item.is_late(now)]
            in_time = [item for item in items if not item.is_late(now)]
            share = Share(queue, predictors[queue], in_time)
            self._queues.drop(late)
            if late:
                reason = "deadline_exceeded"
                self._metrics.inc("dropped_images_total", *share.labels, reason, by=len(late))
            shares.append(share)
        for part in _parts(shares):
            began, at_once = time.monotonic(), len(self._answering)
            with self._counted():
                replies = self._run(part, now, traces)
            at_once = max(at_once, len(self._answering))
            self._measure_rates(part, (time.monotonic() - began) / at_once)
            self._send(part, replies, traces)
        return sum(len(share.items) for share in shares)

    @contextmanager
    def _present(self) -> Iterator[None]:
        """Count this thread among those that answer a batch, once however many it answers."""
        thread = get_ident()
        is_nested = thread in self._answering  # a faster queue within a slower one
        self._answering.add(thread)
        try:
            yield
        finally:
            if not is_nested:
                self._answering.discard(thread)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Keep `idle_seconds` at 0. Faster queues run within slower ones, and threads at once."""
        with self._counting:
            self._computing += 1
        try:
            yield
        finally:
            with self._counting:
                self._computing -= 1
                self._computed_at = time.monotonic()

    def _measure_rates(self, part: Sequence[Share], seconds: float) -> None:
        for share in part:
            rate = len(share.items) / max(seconds, 1e-6)
            before = self._rates.get(share.queue)
            if before:
                rate = before + _RATE_SMOOTHING * (rate - before)
            self._rates[share.queue] = rate

    def _send(
        self, part: Sequence[Share], replies: Sequence[Sequence[Reply]], traces: Traces
    ) -> None:
        began, began_at = time.monotonic(), time.time_ns()
        pairs: list[tuple[Item, Reply]] = []
        for share, own in zip(part, replies, strict=True):
            for reply in own:
                code = reply.error[0] if reply.error else ""
                self._metrics.inc("computed_images_total", *share.labels, code)
            pairs += zip(share.items, own, strict=True)
        self._queues.send_replies(pairs, {share.queue: self._rates[share.queue] for share in part})
        seconds = time.monotonic() - began
        for share in part:
            self._metrics.observe("reply_seconds", seconds, *share.labels)
            if (trace := traces[share.queue]) is not None:
                trace.replied(began_at)

    def _run(self, part: Sequence[Share], now: float, traces: Traces) -> list[list[Reply]]:
        """The replies to the images of each share, in order."""
        began, began_at = time.monotonic(), time.time_ns()
        outcomes = self._compute(part)
        seconds = time.monotonic() - began
        size = sum(len(share.items) for share in part)
        images = len({item.image_id for share in part for item in share.items})
        run = _Run(size, images if len(part) > 1 else size, now, began_at, seconds)
        return [
            self._failed(share, outcome, run, traces)
            if isinstance(outcome, Exception)
            else self._succeeded(share, outcome, run, traces)
            for share, outcome in zip(part, outcomes, strict=True)
        ]

    def _compute(self, part: Sequence[Share]) -> Sequence[Sequence[ItemOutput] | Exception]:
        """The outputs of each share, or why it has none."""
        base = part[0].predictor.base
        if len(part) == 1 or base is None:
            return [_attempt(self._compute_alone, share) for share in part]
        # An image that several models were asked about runs once.
        images = {item.image_id: item.pixels for share in part for item in share.items}
        rows = {image_id: row for row, image_id in enumerate(images)}
        try:
            outputs = base.run(np.stack(list(images.values())))
        except Exception as failure:  # noqa: BLE001  each share handles it
            return [failure] * len(part)
        return [
            _attempt(_finish, share, _taken(outputs, [rows[item.image_id] for item in share.items]))
            for share in part
        ]

    def _compute_alone(self, share: Share) -> Sequence[ItemOutput]:
        operation = share.operation
        if operation is None:
            outputs = self._handlers[share.queue.operation].compute(
                share.queue,
                share.predictor,
                share.items,
                lambda: self._run_faster(share.queue.operation),
            )
        else:
            pixels = np.stack([item.pixels for item in share.items])
            outputs = [ItemOutput(one) for one in share.predictor.run(operation, pixels)]
        return _finite(share, outputs)

    def _failed(self, share: Share, failure: Exception, run: _Run, traces: Traces) -> list[Reply]:
        """The replies to images that have no output; each of several is tried by itself."""
        trace, version = traces[share.queue], share.predictor.version
        waits = _waits(share.items, run.now)
        if isinstance(failure, OpsinError):
            if trace is not None:
                trace.ran(share.items, waits, run.began_at, failure.code)
            error = (failure.code, failure.detail)
            return [Reply(item.id, version, 1, 0, 0, error=error) for item in share.items]
        fields = _log_fields({share.queue: share.items})
        log.error("batch_failed", size=run.size, exc_info=failure, **fields)
        if trace is not None:
            trace.ran(share.items, waits, run.began_at, "internal_error")
        if run.size == 1:
            if share.operation and is_out_of_memory(failure) and share.items[0].attempt == 1:
                raise OutOfMemoryError(f"{share.queue.key}: {failure}") from failure
            self._statistics.record_failure(share.queue.model, version)
            error = ("internal_error", "The network failed on this image.")
            return [Reply(share.items[0].id, version, 1, 0, 0, error=error)]
        # One bad image must not fail the others.
        alone = [Share(share.queue, share.predictor, [item]) for item in share.items]
        return [self._run([one], run.now, traces)[0][0] for one in alone]

    def _succeeded(
        self, share: Share, outputs: Sequence[ItemOutput], run: _Run, traces: Traces
    ) -> list[Reply]:
        waits = _waits(share.items, run.now)
        if (trace := traces[share.queue]) is not None:
            trace.ran(share.items, waits, run.began_at, "")
        self._count(share, waits, run)
        return [
            Reply(
                item.id,
                share.predictor.version,
                run.images,
                waited,
                run.seconds,
                vector=output.vector,
                note=output.note,
            )
            for item, output, waited in zip(share.items, outputs, waits, strict=True)
        ]

    def _count(self, share: Share, waits: Sequence[float], run: _Run) -> None:
        metrics, labels = self._metrics, share.labels
        self._log.debug("batch", images=run.images, compute_ms=round(run.seconds * 1000, 1))
        metrics.inc("executions_total", *labels)
        metrics.observe("batch_images", run.images, *labels)
        metrics.observe("compute_seconds", run.seconds, *labels)
        for waited in waits:
            metrics.observe("queue_seconds", waited, *labels)
        if share.operation is not None:
            # Added up over all versions, these are the images and the time that there were.
            self._statistics.record(
                share.queue.model,
                share.predictor.version,
                size=len(share.items),
                queue_seconds=sum(waits),
                compute_seconds=run.seconds * len(share.items) / run.size,
                at=run.now,
            )


def _parts(shares: Sequence[Share]) -> list[list[Share]]:
    """What can run together: images of one size for one base, or of one queue with equal notes."""
    parts: dict[tuple[object, ...], list[tuple[Share, list[Item]]]] = {}
    for share in shares:
        base = None if share.operation is None else share.predictor.base
        for item in share.items:
            part = parts.setdefault(_part_of(base, share.queue, item), [])
            if not part or part[-1][0] is not share:
                part.append((share, []))
            part[-1][1].append(item)
    return [[replace(share, items=items) for share, items in part] for part in parts.values()]


def _part_of(base: SharedBase | None, queue: QueueName, item: Item) -> tuple[object, ...]:
    shape = item.pixels.shape
    return (queue, shape, item.note) if base is None else (id(base), shape)


def _attempt(
    compute: Callable[..., Sequence[ItemOutput]], *args: object
) -> Sequence[ItemOutput] | Exception:
    """The outputs, or the error in their place."""
    try:
        return compute(*args)
    except Exception as failure:  # noqa: BLE001  the caller handles it
        return failure


def _taken(outputs: Vector, rows: list[int]) -> Vector:
    """Some rows; a view if they follow one another, since each may be a megabyte."""
    first = rows[0]
    if rows == list(range(first, first + len(rows))):
        return outputs[first : first + len(rows)]
    return outputs[rows]


def _finish(share: Share, base_output: Vector) -> Sequence[ItemOutput]:
    if share.operation is None:
        raise ValueError(f"'{share.queue.operation}' is not computed from a base's output")
    outputs = share.predictor.finish(share.operation, base_output)
    return _finite(share, [ItemOutput(one) for one in outputs])


def _finite(share: Share, outputs: Sequence[ItemOutput]) -> Sequence[ItemOutput]:
    if not all(np.isfinite(output.vector).all() for output in outputs):
        raise FloatingPointError(f"{share.queue.key} gave a value that is not a number")
    return outputs


def _waits(items: Sequence[Item], now: float) -> list[float]:
    return [max(0.0, now - item.enqueued) for item in items]


def _log_fields(by_queue: Mapping[QueueName, Sequence[Item]]) -> dict[str, Any]:
    """For every log line during a batch."""
    origins = _origins([item for items in by_queue.values() for item in items])
    if len(by_queue) > 1:
        return {"queues": [queue.key for queue in by_queue]} | origins
    (queue,) = by_queue
    served = {"model": queue.model, "version": queue.version, "operation": queue.operation}
    return served | origins


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
