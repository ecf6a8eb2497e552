"""Every error answer is made here, in the one shape that clients may rely on (RFC 9457).

At the addresses of the standard protocols it is the one that those clients know: `{"error": …}`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import Match

from contracts.errors import CODES, OpsinError, ValidationFailed
from contracts.problem import FieldError, Problem

MEDIA_TYPE = "application/problem+json"
PLAIN_MEDIA_TYPE = "application/json"
# Nobody reads the answer to a client that has gone; the access log shows nginx's number for it.
CLIENT_CLOSED_REQUEST = 499
_CODES_OF_STATUS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "validation_error",
    503: "dependency_unavailable",
}
_NOTHING_HERE = "There is nothing at this address. /docs lists all there is."


class _Told(JSONResponse):
    """An answer that may quote what a client sent, halves of characters included."""

    def render(self, content: Any) -> bytes:
        """UTF-8; what has none is a question mark."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode(errors="replace")


def problem(
    connection: HTTPConnection,
    error: OpsinError,
    *,
    errors: list[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer that tells a client of an error.

    Args:
        connection: Whose request it was; its id goes into the body.
        error: What happened.
        errors: The single values that did not pass, for a validation error.
        headers: Further headers.
    """
    sent = _retry_after(error) | dict(headers or {})
    return _answer(connection, error.code, error.detail, errors=errors, headers=sent)


def nothing_here(request: Request) -> JSONResponse:
    """The answer at an address that takes no such request: 405 if it takes others, else 404."""
    allowed = ", ".join(_allowed(request))
    if not allowed:
        return _answer(request, "not_found", _NOTHING_HERE)
    detail = f"This address takes {allowed}."
    return _answer(request, "method_not_allowed", detail, headers={"Allow": allowed})


def speaks_plainly(path: str) -> bool:
    """Whether the clients of an address expect `{"error": …}`, as standard protocols have it."""
    return (
        path == "/v2"
        or path.startswith("/v2/")
        or (path.startswith("/v1/models/") and path.endswith((":predict", "/metadata")))
    )


def install(app: FastAPI) -> None:
    """Make `app` answer every exception it knows as a problem."""
    app.add_exception_handler(OpsinError, _on_opsin_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(UnicodeEncodeError, _on_half_character)


def problem_responses(*codes: str, plain: bool = False) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of those codes, by status, for a route's ``responses``.

    Args:
        codes: What the route may answer.
        plain: Whether it answers as the standard protocols do.
    """
    kind, schema = (PLAIN_MEDIA_TYPE, "PlainError") if plain else (MEDIA_TYPE, "Problem")
    found: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        meaning = CODES[code]
        entry = found.setdefault(
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
        detail = meaning.title + "."
        full = _body(code, detail, "4bf92f3577b34da6", None)
        example = {"error": detail} if plain else full
        entry["content"][kind]["examples"][code] = {"value": example}
        if meaning.status in {429, 503}:
            entry["headers"] = {
                "Retry-After": {
                    "description": "Seconds after which a retry may succeed.",
                    "schema": {"type": "integer", "minimum": 1},
                }
            }
    return found


async def _on_opsin_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, OpsinError)  # noqa: S101 - narrows the type Starlette declares
    return problem(request, exc)


async def _on_invalid(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError)  # noqa: S101
    errors = [FieldError(loc=list(e["loc"]), msg=e["msg"]) for e in exc.errors()]
    named = ", ".join(".".join(map(str, e.loc)) for e in errors)
    return problem(request, ValidationFailed(f"Correct these: {named[:500]}."), errors=errors)


async def _on_http_exception(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)  # noqa: S101
    unknown = "bad_request" if exc.status_code < 500 else "internal_error"
    code = _CODES_OF_STATUS.get(exc.status_code, unknown)
    headers = dict(exc.headers or {})
    detail = exc.detail
    if code == "not_found":
        detail = _NOTHING_HERE
    elif code == "method_not_allowed":
        headers["Allow"] = ", ".join(_allowed(request))
        detail = f"This address takes {headers['Allow']}."
    return _answer(request, code, detail, headers=headers)


async def _on_disconnect(request: Request, exc: Exception) -> Response:
    del request, exc
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_half_character(request: Request, exc: Exception) -> Response:
    """JSON can say half of a character, by a lone surrogate; nothing beyond Python can take it."""
    if "surrogates" not in str(exc):
        raise exc
    detail = "A text holds half of a character (a lone surrogate). Send whole characters."
    return problem(request, ValidationFailed(detail))


def _allowed(request: Request) -> list[str]:
    """Every method of this address; Starlette names those of the first route alone."""
    found = []
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        scope = dict(request.scope) | {"method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            found.append(method)
    return found


def _answer(
    connection: HTTPConnection,
    code: str,
    detail: str,
    *,
    errors: list[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    if speaks_plainly(connection.scope["path"]):
        return _Told({"error": detail}, CODES[code].status, dict(headers or {}))
    request_id = getattr(connection.state, "request_id", "")
    body = _body(code, detail, request_id, errors)
    return _Told(body, CODES[code].status, dict(headers or {}), MEDIA_TYPE)


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
    """A header for what may pass by itself: whole seconds, at least one."""
    if error.meaning.status not in {429, 503}:
        return {}
    return {"Retry-After": str(max(1, math.ceil(error.retry_after or 1)))}
