"""How every process logs: one line per event on stderr, each with the request's id.

structlog and the standard library (uvicorn, Celery, SQLAlchemy) share one handler, so that a log
has one format. Local variables never appear in a traceback: they may be a client's key or face.
"""

import logging
import sys
from typing import Literal

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


def configure_logs(level: LogLevel, form: LogFormat) -> None:
    """Send all logging of this process to stderr.

    Args:
        level: The least severe level that is written.
        form: ``json`` for machines, ``console`` for people.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(form),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _renderers(form: LogFormat) -> list[Processor]:
    if form == "json":
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(tracebacks),
            structlog.processors.JSONRenderer(),
        ]
    plain = structlog.dev.plain_traceback
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
    return [_escape, console]


def _escape(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Show what a terminal would obey, which a client may have put into a path, as escapes."""
    for name, value in event.items():
        if isinstance(value, str) and name not in {"exception", "stack"}:
            event[name] = printable(value)
    return event
