"""What the OpenAPI document says about every operation: headers, errors, scopes and limits."""

from typing import Any

from contracts.settings import Settings
from service.auth.scopes import ANY, Access
from service.http.body import JSON_TYPE
from service.http.deadlines import HEADER as TIMEOUT_HEADER
from service.http.errors import problem_responses
from service.http.multipart import FORM_TYPE
from service.middleware.request_id import HEADER as REQUEST_ID_HEADER

REQUEST_ID_PARAMETER = {
    "name": REQUEST_ID_HEADER,
    "in": "header",
    "required": False,
    "description": "Used if it is printable ASCII of at most 128 characters.",
    "schema": {"type": "string"},
}
REQUEST_ID_RESPONSE = {
    "description": "The id of this request in the log.",
    "schema": {"type": "string"},
}


def complete_operation(
    operation: dict[str, Any], settings: Settings, *, access: Access, plain: bool
) -> None:
    """Add what every operation has, and the limits of the settings.

    Args:
        operation: What FastAPI made from the route.
        settings: Limits, and whether the service may be open.
        access: The scopes, one of which a key needs.
        plain: Whether its errors are those of a standard protocol.
    """
    _add_security(operation, access, may_be_open=settings.is_loopback and settings.api_key is None)
    _add_errors(operation["responses"], access, plain=plain)
    for response in operation["responses"].values():
        header = {"$ref": f"#/components/headers/{REQUEST_ID_HEADER}"}
        response.setdefault("headers", {})[REQUEST_ID_HEADER] = header
    _describe_stream(operation["responses"])
    for parameter in operation.setdefault("parameters", []):
        _complete_parameter(parameter, settings)
    operation["parameters"].append({"$ref": f"#/components/parameters/{REQUEST_ID_HEADER}"})
    form = operation.get("requestBody", {}).get("content", {}).get(FORM_TYPE)
    images = form["schema"]["properties"].get("image", {}) if form else {}
    if images.get("type") == "array":
        images.setdefault("maxItems", settings.max_images)


def _add_security(operation: dict[str, Any], access: Access, *, may_be_open: bool) -> None:
    """Each scope and each header is an alternative; scopes within one would all be needed."""
    operation["security"] = []
    if not access:
        return
    scopes: list[list[str]] = [[]] if access == ANY else [[scope] for scope in access]
    operation["security"] = [{name: scope} for scope in scopes for name in ("bearer", "header")]
    if may_be_open:
        operation["security"].append({})
    operation["description"] += f"\n\n{_needed(access)}"


def _needed(access: Access) -> str:
    """The scopes of an operation, as a sentence."""
    if access == ANY:
        return "Needs a key with any scope."
    names = [f"`{scope}`" for scope in access]
    if len(names) == 1:
        return f"Needs a key with the scope {names[0]}."
    return f"Needs a key with one of the scopes {', '.join(names[:-1])} or {names[-1]}."


def _add_errors(responses: dict[str, Any], access: Access, *, plain: bool) -> None:
    codes = ["internal_error"]
    if access:
        # `bad_request` is for a key in the URL.
        codes += ["bad_request", "unauthorized", "forbidden", "rate_limited"]
    else:
        codes.append("payload_too_large")  # even of a body that nobody reads
    for status, response in problem_responses(*codes, plain=plain).items():
        _add(responses, str(status), response)


def _describe_stream(responses: dict[str, Any]) -> None:
    """FastAPI describes events by `itemSchema`, which only OpenAPI 3.2 has."""
    stream = responses.get("200", {}).get("content", {}).get("text/event-stream")
    if stream:
        stream.pop("itemSchema", None)
        stream["schema"] = {"type": "string"}


def _complete_parameter(parameter: dict[str, Any], settings: Settings) -> None:
    if parameter["name"] == TIMEOUT_HEADER:
        parameter["schema"] = {
            "type": "integer",
            "minimum": 1,
            "maximum": settings.max_timeout_ms,
            "default": settings.default_timeout_ms,
        }
    elif parameter["name"] == "accept":
        # Not what the service assumes without the header: generated clients send this default and
        # parse what they get as JSON.
        parameter |= {"name": "Accept", "schema": {"type": "string", "default": JSON_TYPE}}


def _add(responses: dict[str, Any], status: str, response: dict[str, Any]) -> None:
    """Add a response, merging it with one that is documented for the status already."""
    documented = responses.setdefault(status, response)
    if documented is response or response["description"] in documented["description"]:
        return
    documented["description"] = f"{documented['description']} {response['description']}"
    for media_type, content in response["content"].items():
        known = documented.setdefault("content", {}).setdefault(media_type, content)
        known.setdefault("examples", {}).update(content["examples"])
    documented.setdefault("headers", {}).update(response.get("headers", {}))
