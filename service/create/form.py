"""Reads the forms of style transfers and dreams: images, and parameters as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from contracts.create.requests import SMALLEST_SIDE
from contracts.errors import OpsinError, PayloadTooLarge, ValidationFailed
from models.images.decode import decode_reduced
from models.images.resize import Size
from service.dependencies import Services
from service.http.deadlines import Deadline
from service.http.multipart import FORM_TYPE, MAX_TEXT_BYTES, FieldSpec, Form, read_form
from service.http.uploads import Upload, checked_upload
from service.inference.decoder import decode_image

_MAX_REPEATED = 16  # parts of a parameter that is a list
_DECODED_SIDE = 64  # pixels; the image is decoded only to see that it can be


@dataclass(frozen=True, slots=True)
class ImageField:
    """A field that holds images.

    Attributes:
        name: In the form.
        description: For the OpenAPI document.
        max_count: Images at most; at least one is needed.
    """

    name: str
    description: str
    max_count: int = 1


async def read_images(
    request: Request, images: Sequence[ImageField], options: type[BaseModel], services: Services
) -> tuple[dict[str, list[Upload]], BaseModel]:
    """The images of each field, and the parameters.

    Raises:
        UnsupportedMediaType: The body is no form.
        PayloadTooLarge: An image is too large.
        ValidationFailed: An image is missing or empty, or there are too many.
        RequestValidationError: A parameter is unknown or not valid.
    """
    limit = services.settings.max_image_bytes
    too_large = PayloadTooLarge(f"An image may have {limit:,} bytes; send a smaller one.")
    fields = {
        image.name: FieldSpec(limit, image.max_count, too_large=too_large) for image in images
    }
    texts = {
        name: FieldSpec(MAX_TEXT_BYTES, _MAX_REPEATED if _is_list(options, name) else 1)
        for name in options.model_fields
    }
    form = await read_form(request, texts | fields)
    uploads = {image.name: _uploads(form, image.name) for image in images}
    return uploads, _options(form, options)


async def image_size(upload: Upload, services: Services, deadline: Deadline) -> Size:
    """(width, height) of an image, which is decoded once so that a bad one is refused now.

    Raises:
        InvalidImage: It cannot be decoded.
        ImageTooLarge: It has too many pixels.
        ValidationFailed: It is too small.
    """
    if isinstance(upload.data, OpsinError):
        raise upload.data
    work = partial(
        decode_reduced,
        upload.data,
        longest_side=_DECODED_SIDE,
        max_pixels=services.settings.max_image_pixels,
    )
    image = await decode_image(services.decoder, work, deadline=deadline)
    if min(image.width, image.height) < SMALLEST_SIDE // 2:
        raise ValidationFailed(
            f"The image has {image.width} x {image.height} pixels. Send one with "
            f"{SMALLEST_SIDE // 2} or more on each side."
        )
    return image.width, image.height


def body_of(images: Sequence[ImageField], options: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI `requestBody` of such a form."""
    schema = options.model_json_schema()
    properties: dict[str, Any] = {}
    for image in images:
        file = {"type": "string", "format": "binary"}
        repeated = {"type": "array", "items": file, "maxItems": image.max_count, "minItems": 1}
        shape = file if image.max_count == 1 else repeated
        properties[image.name] = shape | {"description": image.description}
    form = {
        "type": "object",
        "required": [image.name for image in images],
        "additionalProperties": False,
        "properties": properties | schema["properties"],
    }
    return {"requestBody": {"required": True, "content": {FORM_TYPE: {"schema": form}}}}


def _is_list(options: type[BaseModel], name: str) -> bool:
    return "list[" in str(options.model_fields[name].annotation) or (
        get_origin(options.model_fields[name].annotation) is list
    )


def _uploads(form: Form, name: str) -> list[Upload]:
    parts = form.parts.get(name)
    if not parts:
        raise ValidationFailed(f"The form holds no image '{name}'; send it as a file.")
    uploads = [checked_upload(part) for part in parts]
    for upload in uploads:
        if isinstance(upload.data, OpsinError):
            raise upload.data
    return uploads


def _options(form: Form, options: type[BaseModel]) -> BaseModel:
    values: dict[str, Any] = {}
    for name in options.model_fields:
        if name in form.parts:
            texts = form.texts(name)
            values[name] = texts if _is_list(options, name) else texts[0]
    try:
        return options.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        if not found[0]["loc"]:  # of several fields together; the message names them
            raise ValidationFailed(found[0]["msg"].removeprefix("Value error, ")) from None
        errors = [{**one, "loc": ("body", *one["loc"])} for one in found]
        raise RequestValidationError(errors) from None
