"""Reads the images out of a request, whichever of the two ways they were sent.

A raw body is one image. A form holds one or several; there a bad one is that image's own affair,
so it is kept as an error beside the others.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fastapi import Request

from contracts.errors import (
    InvalidImage,
    OpsinError,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.settings import Settings
from models.catalog import CATALOG
from service.http.body import read_body
from service.http.multipart import FIELD, ImageForm, Part
from service.protocols.oip import most_bytes
from service.protocols.signature import signature_of

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif", "image/tiff")
FORM_TYPE = "multipart/form-data"
IMAGES_BODY: dict[str, Any] = {
    "required": True,
    "description": "One image as the body, or one or several as the form field `image`.",
    "content": {
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES},
        FORM_TYPE: {
            "schema": {
                "type": "object",
                "required": ["image"],
                "additionalProperties": False,
                "properties": {
                    "image": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        },
    },
}
# What a form's boundaries and headers may add to its images.
FORM_OVERHEAD = 64 * 1024
_NAME_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as it was sent.

    Attributes:
        name: The file name, fit to be shown; None if none was sent.
        data: The bytes, or why they are not there.
    """

    name: str | None
    data: bytes | OpsinError


def form_limit(settings: Settings) -> int:
    """The bytes that the largest permitted form has."""
    return settings.max_images * settings.max_image_bytes + FORM_OVERHEAD


async def read_uploads(request: Request, settings: Settings) -> list[Upload]:
    """The images of a request, at least one.

    Raises:
        UnsupportedMediaType: The content type is neither an image nor a form.
        PayloadTooLarge: A raw image is larger than the limit.
        BadRequest: The form is malformed.
        ValidationFailed: The form holds none, too many, or something else.
        ClientDisconnect: The client hung up.
    """
    content_type = request.headers.get("Content-Type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == FORM_TYPE:
        return await _read_form(request, content_type, settings)
    if kind in IMAGE_TYPES:
        return [Upload(None, await _read_raw(request, settings.max_image_bytes))]
    accepted = ", ".join((*IMAGE_TYPES, FORM_TYPE))
    raise UnsupportedMediaType(f"Set Content-Type to one of: {accepted}.")


async def _read_form(request: Request, content_type: str, settings: Settings) -> list[Upload]:
    form = ImageForm(
        content_type, max_parts=settings.max_images, max_part_bytes=settings.max_image_bytes
    )
    parts = await form.read(request.stream())
    if not parts:
        raise ValidationFailed(f"The form holds no image; send it as the field '{FIELD}'.")
    return [_upload(part, settings.max_image_bytes) for part in parts]


async def _read_raw(request: Request, limit: int) -> bytes | OpsinError:
    return await read_body(request, limit, _too_large(limit)) or _empty()


def _upload(part: Part, limit: int) -> Upload:
    name = shown_name(part.filename)
    if part.too_large:
        return Upload(name, _too_large(limit))
    return Upload(name, bytes(part.data) if part.data else _empty())


def shown_name(filename: str | None) -> str | None:
    """The last component of a sent file name, without what cannot be printed; None if empty."""
    if filename is None:
        return None
    printable = "".join(c for c in filename.replace("\\", "/") if c.isprintable())
    return PurePosixPath(printable).name[:_NAME_LENGTH] or None


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"An image may have {limit} bytes; send a smaller one.")


def _empty() -> InvalidImage:
    return InvalidImage("The image is empty; send its bytes as the body or as the form field.")


def body_limit(settings: Settings) -> int:
    """The bytes that the largest permitted request has: a form of files, or a tensor as JSON."""
    signatures = [signature_of(network, settings.max_images) for network in CATALOG.values()]
    return max(form_limit(settings), *map(most_bytes, signatures))


def larger_bodies(settings: Settings) -> dict[str, int]:
    """The addresses that take more than that, and how much: whole archives, kept on the disk."""
    return {"/v1/datasets": settings.max_dataset_upload_bytes + FORM_OVERHEAD}
