"""Spans of traces, recorded with OpenTelemetry if a collector is named and otherwise not at all.

Each process starts tracing when it starts (`start_tracing`), and nothing of OpenTelemetry's SDK is
imported before. Whether a request is traced is decided once, when it arrives. One that is not costs
no more than a look at a context variable in each part.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from contracts.settings import Settings
from contracts.tracing.config import TracingConfig, TracingConfigError, shown_endpoint
from contracts.tracing.origin import TraceContext

if TYPE_CHECKING:
    from contracts.tracing.exporter import SpanExporter

log = structlog.get_logger()

Value = str | int | float | bool | Sequence[str]
SpanKind = Literal["internal", "server", "client", "producer", "consumer"]
Process = Literal["api", "worker", "jobs", "job"]


class Span(Protocol):
    """One part of a trace, until it ends.

    Attributes:
        context: As the parent of others.
    """

    context: TraceContext

    def name(self, name: str) -> None:
        """Give it another name."""
        ...

    def set(self, **attributes: Value) -> None:
        """Set attributes; two underscores stand for a dot."""
        ...

    def fail(self, reason: str) -> None:
        """Mark it as failed; `reason` is the code of an error."""
        ...

    def end(self, at: int | None = None) -> None:
        """End it, now or at Unix nanoseconds."""
        ...


_exporter: "SpanExporter | None" = None
_CURRENT: ContextVar[Span | None] = ContextVar("span", default=None)
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def start_tracing(settings: Settings, process: Process) -> None:
    """Send spans from now on if a collector is named; a wrong setting is logged, not raised."""
    global _exporter  # noqa: PLW0603  one for each process, as for logging
    try:
        config = TracingConfig.of(settings)
    except TracingConfigError as error:
        log.warning("not_traced", reason=str(error))
        return
    if config is None:
        return
    from contracts.tracing.exporter import SpanExporter

    _exporter = SpanExporter(config, process)
    log.info("traced", endpoint=shown_endpoint(config.endpoint), ratio=config.ratio)


def stop_tracing() -> None:
    """Send what has not been sent yet, within seconds; nothing is recorded afterwards."""
    global _exporter
    exporter, _exporter = _exporter, None
    if exporter is not None:
        exporter.close()


def flush_tracing() -> None:
    """Send what has not been sent yet, within seconds."""
    if _exporter is not None:
        _exporter.flush()


def is_tracing() -> bool:
    """Whether this process records spans."""
    return _exporter is not None


def begin_request(name: str, sent: TraceContext | None, *, is_probe: bool) -> Span | None:
    """The span of a request that has arrived; None if it is not traced.

    Args:
        name: Of the span.
        sent: The client's part of the trace.
        is_probe: Whether it only asks for the state; then it is traced on request only.
    """
    if _exporter is None:
        return None
    config = _exporter.config
    if sent is not None and config.follows_client:
        traced = sent.is_sampled
    else:
        traced = not is_probe and random.random() < config.ratio  # noqa: S311  no secret
    return _exporter.begin(name, sent, kind="server") if traced else None


def begin(
    name: str,
    parent: TraceContext | None,
    *,
    kind: SpanKind = "internal",
    at: int | None = None,
    links: Sequence[TraceContext] = (),
    attributes: Mapping[str, Value] | None = None,
) -> Span | None:
    """A span that the caller ends; None if this process records none.

    Args:
        name: Of the span.
        parent: What it is a part of; None for a trace of its own.
        kind: Its role.
        at: When it began, in Unix nanoseconds; now by default.
        links: Spans of other traces that it has to do with.
        attributes: As for `Span.set`.
    """
    if _exporter is None:
        return None
    span = _exporter.begin(name, parent, kind=kind, at=at, links=links)
    span.set(**(attributes or {}))
    return span


def current_span() -> Span | None:
    """The innermost one; None if what runs is not traced."""
    return _CURRENT.get()


def span(name: str, **attributes: Value) -> AbstractContextManager[Span | None]:
    """A part of the current span, which fails with the exception that leaves it."""
    parent = _CURRENT.get()
    return _NO_SPAN if parent is None else _part_of(parent, name, attributes)


@contextmanager
def _part_of(parent: Span, name: str, attributes: dict[str, Value]) -> Iterator[Span | None]:
    part = begin(name, parent.context, attributes=attributes)
    if part is None:
        yield None
        return
    with within(part):
        yield part


@contextmanager
def within(part: Span) -> Iterator[None]:
    """Make a span the current one, and end it."""
    token = _CURRENT.set(part)
    try:
        yield
    except BaseException as error:
        part.fail(getattr(error, "code", None) or type(error).__name__)
        raise
    finally:
        _CURRENT.reset(token)
        part.end()
