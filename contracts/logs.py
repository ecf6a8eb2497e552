"""How every process logs: one line per event on stderr, each with the request's id.

Lines of structlog and of the standard library (uvicorn, Celery, SQLAlchemy) have one format. Those
of structlog are not passed through the standard library's handlers, which would take most of their
time. Local variables never appear in a traceback: they may be a client's key or face.
"""

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from contracts.printable import printable

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]

# These log every connection or task at INFO, which our own lines describe better.
_CHATTY = (
    *("httpx", "httpcore", "python_multipart", "uvicorn.access"),
    *("celery.redirected", "celery.worker.strategy", "celery.app.trace", "celery.worker.request"),
)

_FIELDS: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default=MappingProxyType({}))


def set_log_fields(fields: Mapping[str, str]) -> None:
    """Add these to all lines of this task from now on, and of those that it starts.

    For each request: `structlog.contextvars` goes through all variables of a task each time.
    """
    _FIELDS.set(fields)


def configure_logs(level: LogLevel, form: LogFormat) -> None:
    """Send all logging of this process to stderr.

    Args:
        level: The least severe level that is written.
        form: ``json`` for machines, ``console`` for people.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_log_fields,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    renderers = _renderers(form)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    names = structlog.stdlib.LoggerFactory()  # finds the module of a logger without a name
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *arguments: _Lines(handler, names(*arguments).name),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class _Lines:
    """Writes rendered lines to the stream of a handler, in turn with it."""

    def __init__(self, handler: logging.StreamHandler[TextIO], name: str) -> None:
        self._handler = handler
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line; a full disk or a closed stream must not break what is logged."""
        self._handler.acquire()
        try:
            self._handler.stream.write(f"{line}\n")
            self._handler.flush()
        except (OSError, ValueError):
            pass
        finally:
            self._handler.release()

    debug = info = warning = error = exception = critical = msg


def add_log_fields(_logger: object, _method: str, event: EventDict) -> EventDict:
    """The processor that adds what `set_log_fields` was given, unless the line says otherwise."""
    for name, value in _FIELDS.get().items():
        event.setdefault(name, value)
    return event


def _renderers(form: LogFormat) -> list[Processor]:
    if form == "json":
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(_dumps),
        ]
    plain = structlog.dev.plain_traceback
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
    return [_escape, console]


_encode = json.JSONEncoder(default=repr).encode


def _dumps(event: EventDict, **_options: Any) -> str:
    """As `json.dumps`, which would make an encoder for each line."""
    return _encode(event)


def _escape(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Show what a terminal would obey, which a client may have put into a path, as escapes."""
    for name, value in event.items():
        if isinstance(value, str) and name not in {"exception", "stack"}:
            event[name] = printable(value)
    return event
