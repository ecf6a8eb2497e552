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
from contracts.names import printable_part
from contracts.settings import Settings
from service.http.body import JSON_TYPE, content_type_of, read_body
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
# What clients send for bytes of a type that they do not know. The last one is curl's default.
_UNTYPED = frozenset(
    {
        *("", "*/*", "application/octet-stream", "binary/octet-stream", "application/binary"),
        *("application/octetstream", "application/x-octet-stream", "application/x-binary"),
        *("application/force-download", "application/x-download", "application/download"),
        *("application/unknown", "application/x-unknown", "unknown/unknown"),
        "application/x-www-form-urlencoded",
    }
)
_IN_QUERY = "Parameters belong in the query of the URL, such as ?top_k=3."
_AS_BYTES = (
    f"Send its bytes as the body (`curl --data-binary @cat.jpg`) or as the form field "
    f"'{IMAGE_FIELD}' (`curl -F {IMAGE_FIELD}=@cat.jpg`)."
)
# How base64 of a JPEG, PNG, GIF and WebP begins.
_BASE64 = (b"/9j/", b"iVBORw0KGgo", b"R0lGOD", b"UklGR")


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
        UnsupportedMediaType: The content type promises neither an image nor a form.
        PayloadTooLarge: A raw image is larger than the limit.
        BadRequest: The form is malformed.
        ValidationFailed: The form holds no image, too many, or an unknown field.
        ClientDisconnect: The client hung up.
    """
    content_type = content_type_of(request)
    if content_type == FORM_TYPE:
        return await _read_form(request, settings)
    if content_type.startswith("image/") or content_type in _UNTYPED:
        return [Upload(None, await _read_raw(request, settings.max_image_bytes))]
    if content_type == JSON_TYPE or content_type.endswith("+json"):
        raise UnsupportedMediaType(f"An image is not read from JSON. {_AS_BYTES}")
    accepted = ", ".join(("image/*", "application/octet-stream", FORM_TYPE))
    raise UnsupportedMediaType(
        f"A body of the type {content_type[:64]!r} is no image. {_AS_BYTES} Types: {accepted}."
    )


async def _read_form(request: Request, settings: Settings) -> list[Upload]:
    limit = settings.max_image_bytes
    spec = FieldSpec(limit, settings.max_images, too_large=_too_large(limit), skip_too_large=True)
    reader = MultipartReader(
        request.headers["Content-Type"],
        {IMAGE_FIELD: spec},
        nameless=BadRequest,
        hint=_IN_QUERY,
    )
    form = await reader.read(request.stream())
    parts = form.parts.get(IMAGE_FIELD)
    if not parts:
        raise ValidationFailed(f"The form holds no image; send it as the field '{IMAGE_FIELD}'.")
    return [checked_upload(part) for part in parts]


async def _read_raw(request: Request, limit: int) -> bytes | OpsinError:
    return _checked(await read_body(request, limit, _too_large(limit)))


def checked_upload(part: Part) -> Upload:
    """The image in a part of a form, or what is wrong with it that needs no decoder."""
    return Upload(display_name(part.filename), part.error or _checked(part.data))


def _checked(data: bytes) -> bytes | OpsinError:
    """The data, or what is wrong with it if that needs no decoder to see."""
    if not data:
        return InvalidImage("The image is empty; send its bytes as the body or as the form field.")
    head = data[:64].lstrip(b' \t\r\n"\xef\xbb\xbf')
    if head[:5].lower() == b"data:":
        return InvalidImage(f"This is a data URL. Decode the base64 after its comma. {_AS_BYTES}")
    if head.startswith(_BASE64):
        return InvalidImage(f"This is an image in base64. Decode it. {_AS_BYTES}")
    if head.startswith((b"{", b"[", f"{IMAGE_FIELD}=".encode())):
        return InvalidImage(f"This is text that may describe an image. {_AS_BYTES}")
    return data


def display_name(filename: str | None) -> str | None:
    """The last component of a sent file name, printable characters only; None if empty."""
    if filename is None:
        return None
    printable = printable_part(filename.replace("\\", "/"))
    return PurePosixPath(printable).name[:_MAX_NAME_LENGTH].strip() or None


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"An image may have {limit} bytes; send a smaller one.")


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
