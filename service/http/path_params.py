"""The model and version that a path of a standard protocol names."""

import re
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from contracts.errors import ValidationFailed
from service.inference.tensors import ModelRef

_VERSION = re.compile(r"[A-Za-z0-9_.-]{1,64}")


async def _model_ref(
    request: Request,
    model: Annotated[str, Path(description="A model's name.", examples=["squeezenet"])],
) -> ModelRef:
    """Model and version; `versioned` and `labeled` document the version parameter.

    Raises:
        ValidationFailed: The version is neither a number nor an alias.
    """
    version = request.path_params.get("version")
    label = request.path_params.get("label")
    if label is not None and label.isdecimal():
        raise ValidationFailed("A label is an alias, such as champion; numbers are versions.")
    requested = version if label is None else label
    if requested is not None and not _VERSION.fullmatch(requested):
        raise ValidationFailed("A version is a number, or an alias such as champion.")
    return ModelRef(model, requested)


ModelRefDep = Annotated[ModelRef, Depends(_model_ref)]


def versioned(extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """`openapi_extra` of a path with a `version`."""
    return (extra or {}) | {"parameters": [_parameter("version", "A number or an alias.", "1")]}


def labeled(extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """`openapi_extra` of a path with a `label`."""
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
