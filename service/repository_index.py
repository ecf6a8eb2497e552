"""Reads the one thing that can be asked of the repository's index: only what is ready."""

import pydantic
from fastapi import Request
from pydantic import BaseModel, StrictBool

from contracts.errors import PayloadTooLarge, ValidationFailed
from service.body import read_body

_MOST_BYTES = 4096


class IndexRequest(BaseModel):
    """What Triton's client may send, and seldom does."""

    ready: StrictBool = False


async def only_ready(request: Request) -> bool:
    """Whether models that cannot be asked are to be left out; an empty body asks for all.

    Raises:
        ValidationFailed: The body is not what it can be.
        PayloadTooLarge: It is far longer.
    """
    refusal = PayloadTooLarge(f"Asking for the index takes at most {_MOST_BYTES} bytes.")
    body = await read_body(request, _MOST_BYTES, refusal)
    if not body.strip():
        return False
    try:
        return IndexRequest.model_validate_json(body).ready
    except pydantic.ValidationError:
        raise ValidationFailed('Send nothing, {} or {"ready": true}.') from None
