"""The trace of one batch: a span of its own, which links to every traced request in it.

Each request also gets its own part: how long its image waited, and how long the batch ran. All is
recorded once it has happened, so that a batch without a traced request costs nothing.
"""

import time
from collections.abc import Sequence

from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from contracts.tracing.attributes import attributes_of
from contracts.tracing.origin import TraceContext
from contracts.tracing.spans import Span, begin, is_tracing

_NANO = 1_000_000_000


class BatchTrace:
    """The spans of one batch; use `batch_trace`."""

    def __init__(self, span: Span, queue: QueueName) -> None:
        self._span = span
        self._queue = queue

    def ran(self, items: Sequence[Item], waits: Sequence[float], began: int, error: str) -> None:
        """The network has run.

        Args:
            items: What it ran.
            waits: How long each has waited, in seconds.
            began: When, in Unix nanoseconds.
            error: The code of its error, or "".
        """
        ended = time.time_ns()
        attributes = attributes_of(self._queue, len(items))
        links = [self._span.context]
        _record("run", self._span.context, began, ended, attributes, error=error)
        for item, waited in zip(items, waits, strict=True):
            if (request := item.origin.sampled) is not None:
                since = began - int(waited * _NANO)
                _record("queue", request, since, began, attributes)
                _record("compute", request, began, ended, attributes, links=links, error=error)

    def replied(self, began: int) -> None:
        """The replies have been sent."""
        _record("reply", self._span.context, began, time.time_ns(), {})

    def end(self) -> None:
        self._span.end()


def batch_trace(
    queue: QueueName, items: Sequence[Item], took: tuple[int, int]
) -> BatchTrace | None:
    """The trace of a batch; None if none of its requests is traced.

    Args:
        queue: Where the items come from.
        items: What was taken.
        took: When taking them began and ended, in Unix nanoseconds.
    """
    if not is_tracing():
        return None
    requests = list(dict.fromkeys(one for item in items if (one := item.origin.sampled)))
    if not requests:
        return None
    span = begin(
        f"batch {queue.operation}",
        None,
        kind="consumer",
        at=took[0],
        links=requests,
        attributes=attributes_of(queue, len(items)),
    )
    if span is None:
        return None
    _record("take", span.context, *took, {})
    return BatchTrace(span, queue)


def _record(
    name: str,
    parent: TraceContext,
    began: int,
    ended: int,
    attributes: dict[str, str | int],
    *,
    links: Sequence[TraceContext] = (),
    error: str = "",
) -> None:
    part = begin(name, parent, at=began, links=links, attributes=attributes)
    if part is not None:
        if error:
            part.fail(error)
        part.end(max(began, ended))
