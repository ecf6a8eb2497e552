"""The span of a request, with the stable attributes for HTTP servers of OpenTelemetry.

Neither a query string nor a client's address is recorded: both may be private, as in the log.
"""

from typing import Any

from starlette.types import Scope

from contracts.tracing.origin import TraceContext
from contracts.tracing.spans import Span, begin_request
from service.http.errors import CLIENT_CLOSED_REQUEST, code_of
from service.middleware.access_log import shown_path

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_PROBES = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"})


def begin_span(scope: Scope, sent: TraceContext | None) -> Span | None:
    """The span of a request that has just arrived; None if it is not traced."""
    method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
    part = begin_request(_name(method, None), sent, is_probe=scope["path"] in _PROBES)
    if part is not None:
        server = scope.get("server") or (None, None)
        part.set(
            http__request__method=method,
            url__path=shown_path(scope["path"]),
            url__scheme=scope["scheme"],
            network__protocol__version=scope["http_version"],
            opsin__request_id=scope["state"]["request_id"],
            **({"server__address": server[0]} if server[0] else {}),
            **({"server__port": server[1]} if server[1] else {}),
        )
    return part


def describe(part: Span, scope: Scope, status: int | None) -> None:
    """Record what the request turned out to be and how it ended.

    Args:
        part: Its span.
        scope: Its scope, with what the application noted in it.
        status: None if there was no response, because the client had gone.
    """
    state: dict[str, Any] = scope["state"]
    route = state.get("routed", {}).get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    if template:
        part.name(_name(scope["method"], template))
        part.set(http__route=template)
    record = state.get("record")
    asked = [] if record is None else record.asked
    if asked:
        names, version = ",".join(one.model for one in asked), asked[0].version
        part.set(
            opsin__operation=asked[0].operation,
            **({"opsin__model": names} if names.strip(",") else {}),
            **({"opsin__version": int(version)} if version and len(asked) == 1 else {}),
        )
    if status is not None:
        part.set(http__response__status_code=status)
    code = status or CLIENT_CLOSED_REQUEST
    if code >= 400:
        part.set(error__type=code_of(state, code))
    if code >= 500:
        part.fail(code_of(state, code))


def _name(method: str, template: str | None) -> str:
    verb = "HTTP" if method not in _METHODS else method
    return f"{verb} {template}" if template else verb
