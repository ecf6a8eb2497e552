"""Request bodies: how large one may be, and how to read one into memory."""

from io import BytesIO

from fastapi import Request

from contracts.errors import OpsinError
from contracts.settings import Settings
from models.catalog import CATALOG
from service.protocols.oip import max_body_bytes
from service.protocols.tensor_spec import tensor_spec

JSON_TYPE = "application/json"
FORM_OVERHEAD = 64 * 1024
"""Boundaries and part headers of a form, at most."""


def max_request_bytes(settings: Settings) -> int:
    """The size of the largest permitted body: a form of images, or a tensor as JSON."""
    form = settings.max_images * settings.max_image_bytes + FORM_OVERHEAD
    tensors = [tensor_spec(network, settings.max_images) for network in CATALOG.values()]
    return max(form, *map(max_body_bytes, tensors))


def disk_body_limits(settings: Settings) -> dict[str, int]:
    """The routes whose bodies are written to disk and may be larger, with their limits in bytes."""
    return {"/v1/datasets": settings.max_dataset_upload_bytes + FORM_OVERHEAD}


def content_type_of(request: Request) -> str:
    """The media type of the body, in lower case, without parameters."""
    return request.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether a media type is that of JSON, plain or a format on top of it (RFC 6839, 3.1)."""
    return content_type == JSON_TYPE or (
        content_type.startswith("application/") and content_type.endswith("+json")
    )


def declared_length(request: Request) -> int:
    """The length of the body by its header; 0 if that is missing or malformed."""
    declared = request.headers.get("Content-Length", "")
    return int(declared) if declared.isdecimal() else 0


async def read_body(request: Request, limit: int, refusal: OpsinError) -> bytes:
    """The whole body.

    Args:
        request: The request, its body unread.
        limit: The maximum length in bytes.
        refusal: Raised for a longer body, declared or sent.

    Raises:
        ClientDisconnect: The client hung up.
    """
    if declared_length(request) > limit:
        raise refusal
    data = BytesIO()
    async for chunk in request.stream():
        data.write(chunk)
        if data.tell() > limit:
            raise refusal
    # The buffer's own bytes: copying hundreds of bodies at the same moment would stop everyone.
    return data.getvalue()
