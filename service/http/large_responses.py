"""Responses that may have megabytes, read in turn and sent as fast as their clients take them."""

import threading
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from functools import partial
from typing import Annotated

from fastapi import Depends, Request, Response

from database.paging import Reserve
from service.auth.principal import quota_key
from service.dependencies import ServicesDep
from service.http.body import JSON_TYPE
from service.http.disconnect import while_connected
from service.http.parts import ResponseInParts
from service.large_reads import LargeReads

_SMALL_BYTES = 64 * 1024
_DEADLINE_SECONDS = 30.0

Read = Callable[[Reserve], str]
"""Blocks, reserves the bytes that it is about to read, if it knows them, and returns JSON."""


class Reading:
    """The read of one request; its bytes are held until its response has been sent."""

    def __init__(self, request: Request, reads: LargeReads) -> None:
        self._request = request
        self._reads = reads
        self._client = quota_key(request.scope)
        self._size = 0
        self._ended = False
        self._lock = threading.Lock()

    async def respond(self, read: Read, *, is_long: bool = False) -> Response:
        """The response with what `read` returns, which never starts once the client has gone.

        Args:
            read: Called in a thread.
            is_long: Whether it may take seconds.

        Raises:
            QueueFull: Too many reads wait, or too many bytes are being sent.
            DeadlineExceeded: It was not read in time.
            Draining: The service is shutting down.
            ClientDisconnect: The client hung up.
        """
        # In the context of the request: URLs in responses depend on the proxy in front.
        work = partial(copy_context().run, self._encoded, read)
        pool = self._reads.long_pool if is_long else self._reads.pool
        run = pool.run(work, deadline_seconds=_DEADLINE_SECONDS)
        return ResponseInParts(await while_connected(self._request, run), media_type=JSON_TYPE)

    def _encoded(self, read: Read) -> bytes:
        body = read(self._reserve).encode()
        self._reserve(len(body))
        return body

    def _reserve(self, size: int) -> None:
        """Hold that many bytes altogether; small responses are not counted."""
        with self._lock:
            if size > max(self._size, _SMALL_BYTES) and not self._ended:
                self._reads.hold(self._client, size - self._size)
                self._size = size

    def end(self) -> None:
        """Release the bytes; a read that is still running holds none."""
        with self._lock:
            self._ended = True
            self._reads.release(self._client, self._size)


async def _reading(request: Request, services: ServicesDep) -> AsyncIterator[Reading]:
    reading = Reading(request, services.large_reads)
    try:
        yield reading
    finally:
        reading.end()


ReadingDep = Annotated[Reading, Depends(_reading)]
