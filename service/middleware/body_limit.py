"""Refuses bodies that are larger than any request may be, before or while they are read.

Starlette's own limit answers in plain text, whatever the application has answered; this one makes
the same problem response as all other errors.

JSON has a limit of its own. The framework parses it on the event loop, into objects that take many
times as much memory: what is harmless as a form of images would stop everyone for minutes. Only
tensors, which are read in another way (`service.protocols.tensor_json`), are JSON and large. Which
routes these are is decided by their templates, as a path may name a person `infer`.

The number of its values is limited as well, and that of the parameters in a URL: for each that is
wrong the framework makes an error, on the event loop, and nobody reads more than a hundred.
"""

from collections.abc import Callable, Mapping
from functools import partial

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contracts.errors import BadRequest, PayloadTooLarge
from service.auth.scopes import MatchedRoute, matched_route
from service.http.body import is_json
from service.http.errors import problem_response

MAX_JSON_BYTES = 1024 * 1024
MAX_JSON_VALUES = 1000
_MANY = 10_000
# Commas are counted, also those in names: 10,000 groups of "Doe, John" and "over 40, Dublin". Where
# there may be so many, `contracts.bodies` counts them again before it makes errors.
_VALUES = {
    "/v1/faces/calibrations": 4 * _MANY,
    "/v1/faces/policy": _MANY,  # a text of 20,000 characters
    "/v1/faces/subjects": _MANY,  # 16 KiB of metadata, for each of them
    "/v1/faces/subjects/{subject_id}": _MANY,
    "/v1/sweeps": _MANY,
    "/v1/trainings": _MANY,  # 1,000 classes, and a weight for each
}
MAX_PARAMETERS = 100
_TENSORS = frozenset(
    {
        "/v1/models/{model}:predict",
        "/v1/models/{model}/versions/{version}:predict",
        "/v1/models/{model}/labels/{label}:predict",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
    }
)


class BodyLimit:
    """413 for a declared or counted length over the limit.

    Args:
        app: The next ASGI application.
        limit: Maximum bytes of a body.
        path_limits: Larger limits of single routes, by template.
    """

    def __init__(
        self, app: ASGIApp, limit: int, path_limits: Mapping[str, int] | None = None
    ) -> None:
        self.app = app
        self._limit = limit
        self._path_limits = dict(path_limits or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope.get("query_string", b"").count(b"&") >= MAX_PARAMETERS:
            refusal = BadRequest(f"A URL may have {MAX_PARAMETERS:,} parameters; send fewer.")
            await problem_response(Request(scope), refusal)(scope, receive, send)
            return
        # On the raw lower-case bytes, as this runs for every request; the first of each counts.
        headers = dict(reversed(scope["headers"]))
        route = matched_route(scope)
        is_plain = _is_plain_json(route, headers.get(b"content-type", b""))
        limit = self._path_limits.get(route.template, self._limit)
        error: Callable[[int], PayloadTooLarge] = _error
        max_values = MAX_JSON_VALUES
        if is_plain:
            limit = min(limit, MAX_JSON_BYTES)
            max_values = max_values_of(route.template)
            error = partial(_json_error, max_values=max_values)
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            await problem_response(Request(scope), error(limit))(scope, receive, send)
            return
        read = values = 0

        async def counted() -> Message:
            nonlocal read, values
            message = await receive()
            body = message.get("body", b"")
            read += len(body)
            values += body.count(b",") if is_plain else 0
            if read > limit or values > max_values:
                raise error(limit)
            return message

        await self.app(scope, counted, send)


def max_values_of(template: str) -> int:
    """The most values that JSON sent to a route may have."""
    return _VALUES.get(template, MAX_JSON_VALUES)


def _error(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"A request may have {limit} bytes; send fewer images in it.")


def _is_plain_json(route: MatchedRoute, content_type: bytes) -> bool:
    """Whether a body is JSON and no tensor, or is refused if it is not JSON, once it was read."""
    if route.template in _TENSORS:
        return False
    media_type = content_type.decode("latin-1").partition(";")[0].strip().lower()
    return route.takes_json or is_json(media_type)


def _json_error(limit: int, *, max_values: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"A JSON body may have {limit:,} bytes and {max_values:,} values here. Send images as they "
        "are: as the body with their own type, or as a file of a form."
    )
