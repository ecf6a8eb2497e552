"""What is known about the request that is being answered, for its metrics and its log line.

The parts of the service note what they did for a request without being handed it: the record is
in a context variable. It is counted once, before the last byte of the response is sent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from contracts.errors import OpsinError
from contracts.queue.messages import Reply
from contracts.queue.redis_keys import QueueName


@dataclass(slots=True)
class RequestRecord:
    """The notes about one request.

    Attributes:
        operation: Of the queue; None if it is no inference request.
        model: Empty until a version was chosen.
        version: Likewise.
        decoded: For each image, how long decoding took, and the code of its error or "".
        answered: For each image that was sent to a worker, the code of its error or "".
        render_seconds: How long drawing took.
        counts: Other counters to increase, each with its labels and by how much.
        parts: Of a request for several models, what is counted for each in place of this.
        failure: The status and the code of a part that failed, though the request did not.
    """

    operation: str | None = None
    model: str = ""
    version: str = ""
    decoded: list[tuple[float, str]] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    render_seconds: float | None = None
    counts: list[tuple[str, tuple[str, ...], float]] = field(default_factory=list)
    parts: "list[RequestRecord]" = field(default_factory=list)
    failure: tuple[int, str] | None = None

    def chosen(self, operation: str, model: str = "", version: int | None = None) -> None:
        """A version was chosen, or could not be."""
        self.operation, self.model = operation, model
        self.version = "" if version is None else str(version)

    def sent(self, queue: QueueName) -> None:
        """Images were sent to a queue; a repeated request counts for the last one."""
        self.operation, self.model = queue.operation, queue.model
        self.version = str(queue.version)
        self.answered = []

    def replied(self, replies: Sequence[Reply | OpsinError]) -> None:
        """The replies to the images have come."""
        self.answered += [reply.code if isinstance(reply, OpsinError) else "" for reply in replies]

    @property
    def asked(self) -> "list[RequestRecord]":
        """What was asked: each of several models, this one, or nothing."""
        return [one for one in self.parts or [self] if one.operation is not None]

    def failed(self, status: int, code: str) -> None:
        """This part of a request has no answer."""
        self.failure = status, code

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Increase a counter when the request is counted."""
        self.counts.append((name, labels, by))


_CURRENT: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def current_record() -> RequestRecord:
    """The record of the request that is being answered; one that nobody reads outside of it."""
    return _CURRENT.get() or RequestRecord()


@contextmanager
def recording(record: RequestRecord) -> Iterator[None]:
    """Make `record` the current one."""
    token = _CURRENT.set(record)
    try:
        yield
    finally:
        _CURRENT.reset(token)
