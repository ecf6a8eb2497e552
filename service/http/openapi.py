"""The OpenAPI document: what FastAPI finds in the routes, and what holds for all of them."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from contracts.problem import PlainError, Problem
from contracts.settings import Settings
from contracts.training.datasets import NewDataset
from contracts.training.trainings import FACE_CNN, TrainingRequest
from service.auth.scopes import Access, access_of
from service.http.deadlines import HEADER as TIMEOUT_HEADER
from service.http.errors import problem_responses, speaks_plainly
from service.http.uploads import FORM_TYPE
from service.middleware.request_id import HEADER as REQUEST_ID_HEADER
from service.protocols.oip_schemas import InferRequest

DESCRIPTION = """\
A picture in, its class out, and why.

Every error is an `application/problem+json` whose `code` names what happened and whose `detail`
says what to do about it; at the addresses of the standard protocols it is `{"error": "…"}`, as
their clients expect. Every answer carries the `X-Request-Id` under which the log speaks of it.

Each operation names the scopes of which a key needs one; `admin` has all. On a loopback address,
and as long as no key was ever made, the service answers its own machine without one.
"""
_REQUEST_ID = {
    "name": REQUEST_ID_HEADER,
    "in": "header",
    "required": False,
    "description": "Taken over if it is printable ASCII of at most 128 characters.",
    "schema": {"type": "string"},
}
_REQUEST_ID_ANSWERED = {
    "description": "The id under which the log speaks of this request.",
    "schema": {"type": "string"},
}
# Shapes that routes name but do not hand to FastAPI.
_NAMED: tuple[type[BaseModel], ...] = (Problem, PlainError, InferRequest, NewDataset)
_REPLACED = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI, settings: Settings) -> None:
    """Make `app` describe itself; the document is made once, when it is first asked for."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, settings)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign] # FastAPI's documented way


def _document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _REPLACED:
        schemas.pop(name, None)
    for model in _NAMED:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    schemas |= _new_training()
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, method, operation in _operations(document):
        access = access_of(method.upper(), path)
        _complete(operation, settings, access=access, plain=speaks_plainly(path))
    return document


def _new_training() -> dict[str, Any]:
    """`TrainingRequest` as it may be sent: a preset may stand for the network."""
    schema = TrainingRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    parts: dict[str, Any] = schema.pop("$defs", {})
    schema["required"] = ["model"]
    schema["anyOf"] = [{"required": ["network"]}, {"required": ["preset"]}]
    schema["oneOf"] = [{"required": ["dataset_id"]}, {"required": ["subjects"]}]
    schema["properties"]["network"]["enum"].append(FACE_CNN)
    return parts | {"NewTraining": schema | {"title": "NewTraining"}}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete(
    operation: dict[str, Any], settings: Settings, *, access: Access, plain: bool
) -> None:
    """Add what every operation has, and the limits that the settings draw."""
    operation.setdefault("parameters", []).append(_REQUEST_ID)
    answers = operation["responses"]
    codes = ["internal_error"]
    if not access:
        operation["security"] = []
    else:
        operation["security"] = [{"bearer": list(access)}, {"header": list(access)}]
        if settings.is_loopback and settings.api_key is None:
            operation["security"].append({})
        # The first: a key in the address.
        codes += ["bad_request", "unauthorized", "forbidden", "rate_limited"]
    for status, how in problem_responses(*codes, plain=plain).items():
        _add(answers, str(status), how)
    for answer in answers.values():
        answer.setdefault("headers", {})[REQUEST_ID_HEADER] = _REQUEST_ID_ANSWERED
    for parameter in operation["parameters"]:
        if parameter["name"] == TIMEOUT_HEADER:
            parameter["schema"] = {
                "type": "integer",
                "minimum": 1,
                "maximum": settings.max_timeout_ms,
                "default": settings.default_timeout_ms,
            }
    form = operation.get("requestBody", {}).get("content", {}).get(FORM_TYPE)
    if form and "image" in form["schema"]["properties"]:
        form["schema"]["properties"]["image"]["maxItems"] = settings.max_images


def _add(answers: dict[str, Any], status: str, how: dict[str, Any]) -> None:
    """Describe an answer beside what is said of its status already."""
    there = answers.setdefault(status, how)
    if there is how or how["description"] in there["description"]:
        return
    there["description"] = f"{there['description']} {how['description']}"
    for kind, content in how["content"].items():
        known = there.setdefault("content", {}).setdefault(kind, content)
        known.setdefault("examples", {}).update(content["examples"])
    there.setdefault("headers", {}).update(how.get("headers", {}))
