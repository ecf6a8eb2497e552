"""Reads a form with one `archive` while it arrives, straight to a file: memory holds a chunk of it.

Its other field is `name`. A body that grows over the limit ends at once.
"""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from contracts.errors import BadRequest, PayloadTooLarge, ValidationFailed
from models.datasets.archives.limits import no_room

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

ARCHIVE = "archive"
NAME = "name"
_HEADERS_A_PART = 16
_HEADER_BYTES = 4096
_MOST_NAME_BYTES = 1024
_WRITE_BYTES = 1024 * 1024
_MALFORMED = "The multipart body is malformed. Let your HTTP client build it and set the boundary."


class ArchiveForm:
    """A form being read.

    Args:
        content_type: The request's header, which holds the boundary.
        limit: Bytes the archive may have.

    Attributes:
        name: The field `name`; None if it was not sent.
        filename: What the archive's file was called; None if it was not said.
        digest: sha256 of the archive so far.
        size: Its bytes so far.

    Raises:
        BadRequest: There is no usable boundary.
    """

    def __init__(self, content_type: str, *, limit: int) -> None:
        self.name: str | None = None
        self.filename: str | None = None
        self.digest = hashlib.sha256()
        self.size = 0
        self._limit = limit
        self._pending = bytearray()
        self._text = bytearray()
        self._field = ""
        self._seen: set[str] = set()
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._ended = False
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise BadRequest(_MALFORMED)
        callbacks: MultipartCallbacks = {
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(
                boundary,
                callbacks,
                max_header_count=_HEADERS_A_PART,
                max_header_size=_HEADER_BYTES,
            )
        except FormParserError:
            raise BadRequest(_MALFORMED) from None

    async def save(self, stream: AsyncIterator[bytes], target: Path) -> None:
        """Read all of the form; the archive's bytes go to `target`.

        Raises:
            BadRequest: The body is malformed or ends too early.
            ValidationFailed: A field is unknown, missing or there twice.
            PayloadTooLarge: The archive is larger than the limit.
            Unavailable: The disk does not take it.
        """
        try:
            with target.open("xb") as file:
                async for chunk in stream:
                    self._parser.write(chunk)
                    if len(self._pending) >= _WRITE_BYTES:
                        await run_in_threadpool(self._flush, file)
                await run_in_threadpool(self._flush, file)
        except FormParserError:
            raise BadRequest(_MALFORMED) from None
        except OSError as error:
            raise no_room() from error
        if not self._ended:
            raise BadRequest(_MALFORMED)
        if ARCHIVE not in self._seen:
            raise ValidationFailed(f"The form holds no archive; send it as the field '{ARCHIVE}'.")
        if NAME in self._seen:
            self.name = self._text.decode(errors="replace")

    def _flush(self, file: BinaryIO) -> None:
        self.digest.update(self._pending)
        file.write(self._pending)
        self._pending.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._disposition = b""
        field = options.get(b"name", b"").decode(errors="replace")
        if field not in {ARCHIVE, NAME}:
            raise ValidationFailed(
                f"The form's fields are '{ARCHIVE}' and '{NAME}'; '{field[:64]}' is not known."
            )
        if field in self._seen:
            raise ValidationFailed(f"The field '{field}' is there twice; send it once.")
        self._seen.add(field)
        self._field = field
        if field == ARCHIVE and (filename := options.get(b"filename")) is not None:
            self.filename = filename.decode(errors="replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field == NAME:
            self._text += data[start:end]
            if len(self._text) > _MOST_NAME_BYTES:
                raise ValidationFailed(f"'{NAME}' may have 100 characters.")
            return
        self.size += end - start
        if self.size > self._limit:
            raise PayloadTooLarge(f"An archive may have {self._limit:,} bytes. Split it up.")
        self._pending += memoryview(data)[start:end]

    def _on_end(self) -> None:
        self._ended = True
