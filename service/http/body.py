"""Reads a request's body into memory, up to a limit that its kind of request has."""

from fastapi import Request

from contracts.errors import OpsinError


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
