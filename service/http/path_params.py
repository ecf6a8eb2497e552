"""The model that an address of a standard protocol names."""

import re
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from contracts.errors import ValidationFailed
from service.inference.tensors import Named

_VERSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")


async def named(
    request: Request,
    model: Annotated[str, Path(description="A model's name.", examples=["squeezenet"])],
) -> Named:
    """Model and version; the version's place is documented by `versioned` or `labelled`.

    Raises:
        ValidationFailed: What stands for a version cannot be one.
    """
    found = request.path_params
    version = found.get("version")
    label = found.get("label")
    if label is not None and label.isdecimal():
        raise ValidationFailed("A label is an alias, such as champion; numbers are versions.")
    asked = version if label is None else label
    if asked is not None and not _VERSION.fullmatch(asked):
        raise ValidationFailed("A version is a number, or an alias such as champion.")
    return Named(model, asked)


ByAddress = Annotated[Named, Depends(named)]


def versioned(extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """`openapi_extra` of an address with a `version` in it."""
    return (extra or {}) | {"parameters": [_parameter("version", "A number or an alias.", "1")]}


def labelled(extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """`openapi_extra` of an address with a `label` in it."""
    return (extra or {}) | {"parameters": [_parameter("label", "An alias.", "champion")]}


def _parameter(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "pattern": r"^[A-Za-z0-9_.-]{1,64}$"},
        "example": example,
    }
