"""Bodies in memory that are sent in parts, each when the client has taken most of those before it.

Of a body in one piece, the server would keep a copy for each client until it has been read.
"""

from fastapi import Response
from starlette.types import Receive, Scope, Send

_PART_BYTES = 64 * 1024


class ResponseInParts(Response):
    """A body of bytes, of any size."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if len(self.body) <= _PART_BYTES:
            await super().__call__(scope, receive, send)
            return
        headers = self.raw_headers
        start = {"type": "http.response.start", "status": self.status_code, "headers": headers}
        await send(start)
        body = memoryview(self.body)
        for first in range(0, len(body), _PART_BYTES):
            rest = first + _PART_BYTES < len(body)
            part = body[first : first + _PART_BYTES]
            await send({"type": "http.response.body", "body": part, "more_body": rest})
        if self.background is not None:
            await self.background()
