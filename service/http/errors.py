"""Makes every error response, in the one shape that clients may rely on (RFC 9457).

On the paths of the standard protocols it is the shape that their clients know: `{"error": …}`.
"""

import errno
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import Match

from contracts.errors import (
    CODES,
    DiskUnusable,
    OpsinError,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.problem import FieldError, Problem
from contracts.suggestions import MAX_ERRORS, explained

MEDIA_TYPE = "application/problem+json"
PLAIN_MEDIA_TYPE = "application/json"
# For the access log only, after nginx: the client has gone and reads no response.
CLIENT_CLOSED_REQUEST = 499
_CODE_BY_STATUS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "validation_error",
    503: "dependency_unavailable",
}
_DISK_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_NOT_JSON = "Send JSON, and set Content-Type: application/json."
# TensorFlow Serving's addresses.
_SERVING_PATH = re.compile(r".*(?:/metadata|:[A-Za-z]+)")  # no name has a colon
_SERVING_LABEL = re.compile(r"/v1/models/[^/]+/labels/[^/]+")
# As `json.dumps`, which would make an encoder for each response.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_NO_ROUTE = "There is nothing at this path. /docs lists all operations."


class NoContentError(Exception):
    """There is nothing to send: the response is 204."""


class _LenientJSONResponse(JSONResponse):
    """May quote what a client sent, including lone surrogates."""

    def render(self, content: Any) -> bytes:
        """UTF-8; a lone surrogate, which has no UTF-8, becomes a question mark."""
        return _encode(content).encode(errors="replace")


def problem_response(
    connection: HTTPConnection,
    error: OpsinError,
    *,
    errors: list[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The response to an error.

    Args:
        connection: The request; its id goes into the body.
        error: What happened.
        errors: The invalid values, for a validation error.
        headers: Additional headers.
    """
    all_headers = _retry_after(error) | dict(headers or {})
    return _response(connection, error.code, error.detail, errors=errors, headers=all_headers)


def problem_message(error: OpsinError, request_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and the body of `problem_response`, for requests that are not routed."""
    body = _encode(_body(error.code, error.detail, request_id, None)).encode()
    headers = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body)), **_retry_after(error)}
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()], body


def unsatisfiable_range_response(
    request: Request, size: int, *, background: BackgroundTask | None = None
) -> JSONResponse:
    """416: a file has none of the bytes that were requested.

    Args:
        request: The request.
        size: Of the file, in bytes.
        background: Run after the response.
    """
    detail = f"The file has {size} bytes. Request some of them, or leave out Range."
    body = _body("bad_request", detail, getattr(request.state, "request_id", ""), None)
    headers = {"Content-Range": f"bytes */{size}"}
    return _LenientJSONResponse(body | {"status": 416}, 416, headers, MEDIA_TYPE, background)


def no_route_response(request: Request) -> JSONResponse:
    """The response where no route matches: 405 if one does for another method, otherwise 404."""
    allowed = ", ".join(_allowed(request))
    if not allowed:
        return _response(request, "not_found", _NO_ROUTE)
    detail = f"This path accepts {allowed}."
    return _response(request, "method_not_allowed", detail, headers={"Allow": allowed})


def uses_plain_errors(path: str) -> bool:
    """Whether the clients of a path expect `{"error": …}`, as the standard protocols do.

    Args:
        path: The template of a route, or the path of a request that matches none.
    """
    if path.startswith("/v1/models/"):
        return any(one.fullmatch(path) for one in (_SERVING_PATH, _SERVING_LABEL))
    return path == "/v2" or path.startswith("/v2/")


def code_of(state: Mapping[str, Any], status: int) -> str:
    """The code of an error response, for metrics; `state` is that of the request's scope."""
    unknown = "bad_request" if status < 500 else "internal_error"
    if status == CLIENT_CLOSED_REQUEST:
        return "cancelled"
    return str(state.get("error_code") or _CODE_BY_STATUS.get(status, unknown))


def install(app: FastAPI) -> None:
    """Make `app` answer every exception with a problem."""
    app.add_exception_handler(OpsinError, _on_opsin_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(NoContentError, _on_no_content)
    app.add_exception_handler(UnicodeEncodeError, _on_surrogate)
    app.add_exception_handler(OSError, _on_os_error)


def problem_responses(*codes: str, plain: bool = False) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of those codes, by status, for a route's ``responses``.

    Args:
        codes: The error codes that the route may answer.
        plain: Whether it belongs to a standard protocol.
    """
    kind, schema = (PLAIN_MEDIA_TYPE, "PlainError") if plain else (MEDIA_TYPE, "Problem")
    responses: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        meaning = CODES[code]
        entry = responses.setdefault(
            meaning.status,
            {
                "description": "",
                "content": {
                    kind: {"schema": {"$ref": f"#/components/schemas/{schema}"}, "examples": {}}
                },
            },
        )
        line = f"`{code}`: {meaning.title}."
        entry["description"] = f"{entry['description']} {line}".strip()
        name = f"plain_{code}" if plain else code
        entry["content"][kind]["examples"][code] = {"$ref": f"#/components/examples/{name}"}
        if meaning.status in {429, 503}:
            entry["headers"] = {
                "Retry-After": {
                    "description": "Seconds after which a retry may succeed.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            }
    return responses


def unsatisfiable_range_description() -> dict[str, Any]:
    """The OpenAPI description of `unsatisfiable_range_response`."""
    (described,) = problem_responses("bad_request").values()
    return described | {
        "description": "The file has none of the bytes of `Range`; `Content-Range` says its size."
    }


def problem_examples() -> dict[str, dict[str, Any]]:
    """The OpenAPI components that `problem_responses` refers to."""
    examples: dict[str, dict[str, Any]] = {}
    for code, meaning in CODES.items():
        detail = meaning.title + "."
        examples[code] = {"value": _body(code, detail, "4bf92f3577b34da6", None)}
        examples[f"plain_{code}"] = {"value": {"error": detail}}
    return examples


async def _on_opsin_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, OpsinError)  # noqa: S101 - narrows the type Starlette declares
    return problem_response(request, exc)


async def _on_invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101
    if _is_untyped_json(request, exc):
        return problem_response(request, UnsupportedMediaType(_NOT_JSON))
    errors = [
        FieldError(loc=list(e["loc"]), msg=explained({**e, "loc": e["loc"][1:]}, model, number))
        for number, e in enumerate(exc.errors()[:MAX_ERRORS])
        for model in [_model_at(request, e["loc"])]
    ]
    faults = ", ".join(f"{'.'.join(map(str, e.loc))} ({e.msg.rstrip('.')})" for e in errors)
    return problem_response(
        request, ValidationFailed(f"Correct these: {faults[:500]}."), errors=errors
    )


def _is_untyped_json(request: Request, exc: RequestValidationError) -> bool:
    """Whether a body was not even parsed, since its type is not JSON."""
    sent = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_json = sent == "application/json" or sent.endswith("+json")
    wrong = [error for error in exc.errors() if tuple(error["loc"]) == ("body",)]
    return not is_json and any(error["type"] != "missing" for error in wrong)


def _model_at(request: Request, loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The model that the route reads from the part of the request that `loc` begins with."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or not loc:
        return None
    if loc[0] == "body":
        fields: list[Any] = [route.body_field]
    else:
        fields = [*route.dependant.query_params] if loc[0] == "query" else []
    for field in fields:
        annotation = None if field is None else field.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101
    if isinstance(exc.__cause__, OpsinError):  # while the framework read a body
        return problem_response(request, exc.__cause__)
    unknown = "bad_request" if exc.status_code < 500 else "internal_error"
    code = _CODE_BY_STATUS.get(exc.status_code, unknown)
    headers = dict(exc.headers or {})
    detail = exc.detail
    if code == "not_found":
        detail = _NO_ROUTE
    elif code == "method_not_allowed":
        headers["Allow"] = ", ".join(_allowed(request))
        detail = f"This path accepts {headers['Allow']}."
    return _response(request, code, detail, headers=headers)


async def _on_disconnect(request: Request, exc: Exception) -> Response:
    del request, exc
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_no_content(request: Request, exc: Exception) -> Response:
    del request, exc
    return Response(status_code=204)


async def _on_os_error(request: Request, error: Exception) -> Response:
    """503 if the disk is full or read-only, wherever that was found out; no other error is ours."""
    if not isinstance(error, OSError) or error.errno not in _DISK_FAULTS:
        raise error
    unusable = DiskUnusable(
        "The service's disk is full or read-only. Delete what is not needed, or ask its operator.",
        retry_after=60,
    )
    return problem_response(request, unusable)


async def _on_surrogate(request: Request, exc: Exception) -> Response:
    """JSON can express a lone surrogate, which nothing outside Python accepts."""
    if "surrogates" not in str(exc):
        raise exc
    detail = "A text contains half a character (a lone surrogate). Send whole characters."
    return problem_response(request, ValidationFailed(detail))


def _allowed(request: Request) -> list[str]:
    """All methods of this path; Starlette names only those of the first matching route."""
    allowed = []
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        scope = dict(request.scope) | {"method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            allowed += [method, "HEAD"] if method == "GET" else [method]
    return allowed


def _response(
    connection: HTTPConnection,
    code: str,
    detail: str,
    *,
    errors: list[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    connection.state.error_code = code
    matched = getattr(connection.state, "matched", None)
    # By the template where there is one, as an alias may be called `metadata`.
    if uses_plain_errors(matched.template if matched else connection.scope["path"]):
        return _LenientJSONResponse({"error": detail}, CODES[code].status, dict(headers or {}))
    request_id = getattr(connection.state, "request_id", "")
    body = _body(code, detail, request_id, errors)
    return _LenientJSONResponse(body, CODES[code].status, dict(headers or {}), MEDIA_TYPE)


def _body(
    code: str, detail: str, request_id: str, errors: list[FieldError] | None
) -> dict[str, Any]:
    meaning = CODES[code]
    return Problem(
        type=f"urn:opsin:problem:{code}",
        title=meaning.title,
        status=meaning.status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=errors,
    ).model_dump(exclude_none=True)


def _retry_after(error: OpsinError) -> dict[str, str]:
    """The header for errors that may pass: whole seconds, at least one."""
    if error.meaning.status not in {429, 503}:
        return {}
    return {"Retry-After": str(max(1, math.ceil(error.retry_after or 1)))}
