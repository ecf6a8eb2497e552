"""Reads the images out of a request, sent either as the body or as a form.

A raw body is one image. A form holds one or several; a bad one does not fail the others, so its
error is returned in its place.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fastapi import Request

from contracts.errors import (
    BadRequest,
    InvalidImage,
    OpsinError,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.settings import Settings
from service.http.body import content_type_of, read_body
from service.http.multipart import FORM_TYPE, FieldSpec, MultipartReader, Part

IMAGE_FIELD = "image"
IMAGE_TYPES = (
    *("image/jpeg", "image/png", "image/webp", "image/heic", "image/heif", "image/avif"),
    *("image/bmp", "image/gif", "image/tiff", "image/x-portable-anymap"),
)
_FILE: dict[str, Any] = {"type": "string", "format": "binary"}


def _image_body(description: str, field: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI `requestBody` of images: a form with the field `image`, or an image by itself.

    The form comes first, because many generators of clients know only the first media type.
    """
    form = {
        "type": "object",
        "required": [IMAGE_FIELD],
        "additionalProperties": False,
        "properties": {IMAGE_FIELD: field},
    }
    raw = {kind: {"schema": _FILE} for kind in IMAGE_TYPES}
    return {
        "required": True,
        "description": description,
        "content": {FORM_TYPE: {"schema": form}, **raw},
    }


IMAGES_BODY = _image_body(
    "One or several images as the form field `image`, or one image as the body.",
    {
        "type": "array",
        "minItems": 1,
        "items": _FILE,
        "description": "Repeat the field for several images.",
    },
)
IMAGE_BODY = _image_body("One image, as the form field `image` or as the body.", _FILE)
_MAX_NAME_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as it was sent.

    Attributes:
        name: The file name, safe to display; None if none was sent.
        data: The bytes, or why they are missing.
    """

    name: str | None
    data: bytes | OpsinError


async def read_uploads(request: Request, settings: Settings) -> list[Upload]:
    """The images of a request, at least one.

    Raises:
        UnsupportedMediaType: The content type is neither an image nor a form.
        PayloadTooLarge: A raw image is larger than the limit.
        BadRequest: The form is malformed.
        ValidationFailed: The form holds no image, too many, or an unknown field.
        ClientDisconnect: The client hung up.
    """
    content_type = content_type_of(request)
    if content_type == FORM_TYPE:
        return await _read_form(request, settings)
    if content_type in IMAGE_TYPES:
        return [Upload(None, await _read_raw(request, settings.max_image_bytes))]
    accepted = ", ".join((*IMAGE_TYPES, FORM_TYPE))
    raise UnsupportedMediaType(f"Set Content-Type to one of: {accepted}.")


async def _read_form(request: Request, settings: Settings) -> list[Upload]:
    limit = settings.max_image_bytes
    spec = FieldSpec(limit, settings.max_images, too_large=_too_large(limit), skip_too_large=True)
    reader = MultipartReader(
        request.headers["Content-Type"], {IMAGE_FIELD: spec}, nameless=BadRequest
    )
    form = await reader.read(request.stream())
    parts = form.parts.get(IMAGE_FIELD)
    if not parts:
        raise ValidationFailed(f"The form holds no image; send it as the field '{IMAGE_FIELD}'.")
    return [_upload(part) for part in parts]


async def _read_raw(request: Request, limit: int) -> bytes | OpsinError:
    return await read_body(request, limit, _too_large(limit)) or _empty()


def _upload(part: Part) -> Upload:
    return Upload(display_name(part.filename), part.error or part.data or _empty())


def display_name(filename: str | None) -> str | None:
    """The last component of a sent file name, printable characters only; None if empty."""
    if filename is None:
        return None
    printable = "".join(c for c in filename.replace("\\", "/") if c.isprintable())
    return PurePosixPath(printable).name[:_MAX_NAME_LENGTH] or None


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"An image may have {limit} bytes; send a smaller one.")


def _empty() -> InvalidImage:
    return InvalidImage("The image is empty; send its bytes as the body or as the form field.")


def request_fingerprint(parameters: str, uploads: Sequence[Upload]) -> str:
    """A digest, equal for equal requests; an `Idempotency-Key` belongs to one of them.

    Args:
        parameters: All parameters, in one unambiguous text.
        uploads: The images; their names and bytes count.
    """
    digest = hashlib.sha256(parameters.encode())
    for upload in uploads:
        data = upload.data if isinstance(upload.data, bytes) else upload.data.code.encode()
        digest.update(repr((upload.name, len(data))).encode())
        digest.update(data)
    return digest.hexdigest()
