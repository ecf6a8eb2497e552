"""Responses with a file: conditional requests and ranges, so that a download can be resumed.

A range is one of bytes (RFC 9110, section 14). Several in one request, which nothing but malice
sends for our files, are ignored, as the standard permits: the whole file is the response.
"""

import re
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask, BackgroundTasks
from starlette.concurrency import iterate_in_threadpool

from service.http.conditional import etag_matches
from service.http.errors import unsatisfiable_range_description, unsatisfiable_range_response
from service.http.parts import ResponseInParts
from service.inference.fair_pool import CALLER, NOBODY
from service.threads import FairThreads

_DROPPING = FairThreads("dropping", threads=2, share=1)
# Possessive: two neighbouring runs of spaces would be tried in all divisions.
_RANGE = re.compile(r"bytes\s*+=\s*+([0-9]{0,18})\s*+-\s*+([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class FileContent:
    """What is sent.

    Attributes:
        size: In bytes; None if it is not known before everything is sent.
        etag: Of this version of the file, with its quotes; another one for other bytes.
        read: The content from an offset on.
        seeks: Whether that costs nothing; otherwise, what precedes it is made and dropped.
        data: All of it, if it is in memory.
    """

    size: int | None
    etag: str
    read: Callable[[int], Iterator[bytes]]
    seeks: bool = True
    data: bytes | None = None

    @classmethod
    def of(cls, data: bytes, etag: str) -> "FileContent":
        return cls(len(data), etag, lambda offset: iter((data[offset:],)), data=data)


def file_responses(
    description: str, content: dict[str, Any], *, is_named: bool = True
) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of `file_response`, for a route's `responses`.

    Args:
        description: Of the file.
        content: Its media types, as OpenAPI describes them.
        is_named: Whether the response suggests a file name.
    """
    text = {"schema": {"type": "string"}}
    etag = {"ETag": {"description": "Of this version of the file."} | text}
    name = {"Content-Disposition": {"description": "The file name."} | text}
    size = {"Content-Range": {"description": "Which part of how many bytes."} | text}
    headers = etag | (name if is_named else {})
    return {
        200: {"description": description, "headers": headers, "content": content},
        206: {
            "description": "The part that `Range` names.",
            "headers": headers | size,
            "content": content,
        },
        304: {"description": "Unchanged since the ETag of `If-None-Match`.", "headers": etag},
        416: unsatisfiable_range_description() | {"headers": size},
    }


def file_response(
    request: Request,
    content: FileContent,
    *,
    media_type: str,
    headers: dict[str, str],
    close: BackgroundTask | None = None,
) -> Response:
    """The file, a part of it, or that the client has it already.

    Args:
        request: What the client has and wants.
        content: The file.
        media_type: Of the file.
        headers: Additional ones.
        close: Run after the response.
    """
    sent = {"ETag": content.etag, "Cache-Control": "private, no-cache"} | headers
    if etag_matches(request.headers, content.etag):
        return Response(status_code=304, headers=sent, background=close)
    if content.size is None:
        return _streamed(content.read(0), 200, sent, media_type, close)
    sent["Accept-Ranges"] = "bytes"
    try:
        part = _requested_part(request, content.size, content.etag)
    except ValueError:
        return unsatisfiable_range_response(request, content.size, background=close)
    first, last = part or (0, content.size - 1)
    sent["Content-Length"] = str(last + 1 - first)
    if part is not None:
        sent["Content-Range"] = f"bytes {first}-{last}/{content.size}"
    status = 200 if part is None else 206
    if content.data is not None:
        body = memoryview(content.data)[first : last + 1]
        return ResponseInParts(body, status, sent, media_type, close)
    chunks = _first_bytes(content.read(first), last + 1 - first)
    late = bool(first) and not content.seeks
    return _streamed(chunks, status, sent, media_type, close, late=late)


def _streamed(
    chunks: Iterator[bytes],
    status: int,
    headers: dict[str, str],
    media_type: str,
    close: BackgroundTask | None,
    *,
    late: bool = False,
) -> Response:
    """The chunks, whose file is closed at the end, also when the client has gone.

    Otherwise it would stay open until the next garbage collection, which may be far away.
    """
    body = _after_the_dropped(chunks) if late else chunks
    end = BackgroundTasks([] if close is None else [close])
    if isinstance(chunks, Generator):
        end.add_task(_close, chunks)
    return StreamingResponse(body, status, headers, media_type, end)


def _close(chunks: Generator[bytes]) -> None:
    with suppress(ValueError):  # a thread still computes the first one, and drops them then
        chunks.close()


def _requested_part(request: Request, size: int, etag: str) -> tuple[int, int] | None:
    """The first and the last byte; None for the whole file.

    Raises:
        ValueError: The file has no such bytes.
    """
    header = request.headers.get("Range", "")
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    condition = request.headers.get("If-Range")
    if condition is not None and condition.strip() != etag:
        return None  # another version, or a date, which we never send
    if not match[1]:
        first, last = max(0, size - int(match[2])), size - 1
        if int(match[2]) == 0:
            raise ValueError
    else:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < int(match[1]):
            return None  # not a range
    if first >= size:
        raise ValueError
    return first, last


def _first_bytes(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return


async def _after_the_dropped(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, of which the first takes as long as the whole download.

    Few such requests run at a time, one of each client, and the others wait without a thread:
    asking for the last byte of many downloads costs a client nothing.
    """
    yield await _DROPPING.run(partial(next, chunks, b""), CALLER.get(NOBODY).whole)
    async for chunk in iterate_in_threadpool(chunks):
        yield chunk
