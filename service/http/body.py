"""Reads a request's body into memory, up to a limit that its kind of request has.

The bound on every body, before it is known what is in it.
"""

from fastapi import Request

from contracts.errors import OpsinError
from contracts.settings import Settings
from models.catalog import CATALOG
from service.http.uploads import FORM_OVERHEAD, form_limit
from service.protocols.oip import most_bytes
from service.protocols.signature import signature_of


async def read_body(request: Request, limit: int, refusal: OpsinError) -> bytes:
    """All bytes of the body.

    Args:
        request: The request, its body unread.
        limit: Bytes it may have.
        refusal: What to raise where it has more, declared or sent.

    Raises:
        ClientDisconnect: The client hung up.
    """
    declared = request.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise refusal
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise refusal
    return bytes(data)


def body_limit(settings: Settings) -> int:
    """The bytes that the largest permitted request has: a form of files, or a tensor as JSON."""
    signatures = [signature_of(network, settings.max_images) for network in CATALOG.values()]
    return max(form_limit(settings), *map(most_bytes, signatures))


def larger_bodies(settings: Settings) -> dict[str, int]:
    """The addresses that take more than that, and how much: whole archives, kept on the disk."""
    return {"/v1/datasets": settings.max_dataset_upload_bytes + FORM_OVERHEAD}
