"""Reads `multipart/form-data` bodies while they arrive, within limits for each field.

python-multipart does the parsing. Starlette's wrapper around it would spool every part to disk and
accept parts of any size. Here a part is kept in memory or written to a named file, and a part that
exceeds its limit is refused before the rest of it is read.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from contracts.errors import (
    BadRequest,
    OpsinError,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from contracts.names import is_printable, opaque_id
from service.http.body import content_type_of
from service.http.part_headers import filename_of, options_of
from service.threads import run_in_threadpool

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM_TYPE = "multipart/form-data"
_MAX_TYPE_LENGTH = 1024  # of the whole form; a boundary has 70 characters at most (RFC 2046, 5.1.1)
_MAX_HEADERS = 16  # of one part
_MAX_HEADER_BYTES = 4096
_WRITE_BYTES = 1024 * 1024  # buffered before they are written to a file
_MAX_PREAMBLE_BYTES = 64 * 1024
# Of a part's Content-Transfer-Encoding; RFC 7578 knows no other.
_PLAIN_ENCODINGS = frozenset({b"", b"7bit", b"8bit", b"binary"})
_MAX_VALUE_BYTES = 8 * 1024  # what may have more is a file
_CHARSET_FIELD = "_charset_"  # which browsers add to a form; file names say theirs themselves
_MAX_CHARSETS = 4  # browsers send one
# Whatever looks like a boundary takes the parser some steps in Python. Clients choose one that is
# not in the data.
_MAX_BOUNDARIES = 1000
_SPACES = re.compile(rb"[ \t]{256}")  # some may follow a boundary, and are read one by one
_MALFORMED = "The multipart body is malformed. Let your HTTP client build it and set the boundary."


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """What a field may contain and where its parts go.

    Attributes:
        max_bytes: Of one part.
        max_count: Parts with this name.
        path: A new file that receives the content; None keeps it in memory.
        too_large: Raised for a part over `max_bytes`; None for a `PayloadTooLarge`.
        skip_too_large: Drop the content of such a part and set its `error` instead of raising.
        on_complete: Called with the text of a part before the rest of the body is read. What it
            raises ends the upload.
    """

    max_bytes: int
    max_count: int = 1
    path: Path | None = None
    too_large: OpsinError | None = None
    skip_too_large: bool = False
    on_complete: Callable[[str], Awaitable[None]] | None = None


MAX_TEXT_BYTES = 512
TEXT = FieldSpec(MAX_TEXT_BYTES)
"""A short text, such as an id."""


class Part:
    """One part of a form.

    Attributes:
        filename: As the client sent it, unsanitised; None if it sent none.
        size: Bytes received.
        error: Why there is no content, see `FieldSpec.skip_too_large`.
        sha256: Of the content, for a part that was written to a file.
    """

    __slots__ = ("_buffer", "error", "filename", "sha256", "size")

    def __init__(self, filename: str | None) -> None:
        self.filename = filename
        self.size = 0
        self.error: OpsinError | None = None
        self.sha256 = hashlib.sha256()
        self._buffer = BytesIO()

    @property
    def data(self) -> bytes:
        """The content in memory. `getvalue` hands out the buffer's own bytes without a copy."""
        return self._buffer.getvalue()

    @property
    def buffered(self) -> int:
        """Bytes in memory."""
        return self._buffer.tell()

    def append(self, data: memoryview) -> None:
        self._buffer.write(data)

    def drop(self, error: OpsinError) -> None:
        """Free the content and remember why."""
        self._buffer, self.error = BytesIO(), error

    def flush(self, file: BinaryIO) -> None:
        """Move the buffered content to `file`; blocks."""
        data, self._buffer = self._buffer.getvalue(), BytesIO()
        self.sha256.update(data)
        file.write(data)


@dataclass(frozen=True, slots=True)
class Form:
    """A form that was read completely; `parts` by field name, in the order of the body."""

    parts: Mapping[str, list[Part]] = field(repr=False)  # keeps images and videos out of logs

    def files(self, name: str) -> list[bytes]:
        """The contents of all parts with that name.

        Raises:
            ValidationFailed: One of them is empty.
        """
        contents = [part.data for part in self.parts.get(name, [])]
        if not all(contents):
            raise ValidationFailed(f"A part '{name}' is empty; send the file's bytes.")
        return contents

    def text(self, name: str) -> str | None:
        """The text of a field; None if it was not sent.

        Raises:
            ValidationFailed: It is empty, not UTF-8 or not printable.
        """
        return _text(name, self.parts[name][0].data) if name in self.parts else None

    def opaque_id(self, name: str) -> str | None:
        """The text of a field as `contracts.names.opaque_id`; None if it was not sent.

        Raises:
            ValidationFailed: It is none.
        """
        text = self.text(name)
        if text is None:
            return None
        try:
            return opaque_id(text, MAX_TEXT_BYTES)
        except ValueError as error:
            raise ValidationFailed(f"'{name}' is not valid: {error}.") from None

    def texts(self, name: str) -> list[str]:
        """The texts of all parts with that name.

        Raises:
            ValidationFailed: One of them is empty, not UTF-8 or not printable.
        """
        return [_text(name, part.data) for part in self.parts.get(name, [])]


def how_to_send(fields: Sequence[str]) -> str:
    """What to do about a body that is no form: the fields for files, and an example."""
    names = " or ".join(f"'{name}'" for name in fields)
    return (
        f"Send a form ({FORM_TYPE}) with the file as the field {names}, as `curl -F "
        f"{fields[0]}=@FILE` does. Files are not read from JSON, from base64 or as the body."
    )


async def read_form(request: Request, fields: Mapping[str, FieldSpec]) -> Form:
    """Read the form that a request holds.

    Raises:
        UnsupportedMediaType: The body is not a form.
        BadRequest: The form is malformed.
        ValidationFailed: It has an unknown field, or too many parts of one.
        PayloadTooLarge: A part is too large.
        ClientDisconnect: The client hung up.
    """
    if content_type_of(request) != FORM_TYPE:
        files = [name for name, spec in fields.items() if spec.max_bytes > _MAX_VALUE_BYTES]
        raise UnsupportedMediaType(how_to_send(files or list(fields)))
    return await MultipartReader(request.headers["Content-Type"], fields).read(request.stream())


class MultipartReader:
    """Reads one form.

    Args:
        content_type: The request's header, which holds the boundary.
        fields: The permitted fields by name.
        nameless: Raised for a part without a name.
        hint: What to do about an unknown field, in a whole sentence.

    Raises:
        BadRequest: There is no usable boundary.
    """

    def __init__(
        self,
        content_type: str,
        fields: Mapping[str, FieldSpec],
        *,
        nameless: type[OpsinError] = ValidationFailed,
        hint: str = "",
    ) -> None:
        self._fields = fields
        self._nameless = nameless
        self._hint = hint
        self._parts: dict[str, list[Part]] = {}
        self._name = ""  # of the current part
        self._completed: list[str] = []
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._encoding = b""
        self._charsets = 0
        self._ended = False
        if len(content_type) > _MAX_TYPE_LENGTH:
            raise BadRequest(_MALFORMED)
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        if not boundary:
            raise BadRequest(_MALFORMED)
        self._preamble = _Preamble(b"--" + boundary)
        self._boundary = b"\r\n--" + boundary
        self._boundaries = 0
        self._padded = re.compile(re.escape(self._boundary) + _SPACES.pattern)
        callbacks: MultipartCallbacks = {
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            self._parser = MultipartParser(
                boundary,
                callbacks,
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError:
            raise BadRequest(_MALFORMED) from None

    async def read(self, stream: AsyncIterator[bytes]) -> Form:
        """Read the stream to its end.

        Raises:
            BadRequest: The body is malformed or ends too early.
            ValidationFailed: It has an unknown field, or too many parts of one.
            OpsinError: A part is too large, or `FieldSpec.on_complete` raised.
            OSError: A file cannot be written.
        """
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(spec.path.open("xb"))
                for name, spec in self._fields.items()
                if spec.path is not None
            }
            try:
                async for chunk in stream:
                    self._parse(self._preamble.drop(chunk))
                    await self._flush(files, _WRITE_BYTES)
                    await self._notify()
            except FormParserError:
                raise BadRequest(_MALFORMED) from None
            await self._flush(files, 1)
        if not self._ended:
            raise BadRequest(_MALFORMED)
        return Form(self._parts)

    def _parse(self, chunk: bytes) -> None:
        """Parse the next chunk.

        Raises:
            BadRequest: It was made to keep the parser busy.
            FormParserError: It is malformed.
        """
        self._boundaries += chunk.count(self._boundary)
        goes_on = self._parser.state == MultipartState.BOUNDARY_PADDING
        is_padded = self._padded.search(chunk) or (goes_on and _SPACES.match(chunk))
        if self._boundaries > _MAX_BOUNDARIES or is_padded:
            raise BadRequest(_MALFORMED)
        self._parser.write(chunk)

    async def _flush(self, files: Mapping[str, BinaryIO], min_bytes: int) -> None:
        """Write what is buffered of each part that goes to a file, if it is that much."""
        for name, file in files.items():
            for part in self._parts.get(name, []):
                if part.buffered >= min_bytes:
                    await run_in_threadpool(part.flush, file)

    async def _notify(self) -> None:
        """Call `on_complete` for the parts that have ended since the last call."""
        while self._completed:
            name = self._completed.pop(0)
            on_complete = self._fields[name].on_complete
            if on_complete is not None:
                await on_complete(_text(name, self._parts[name][-1].data))

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name = self._header_name.lower()
        if name == b"content-disposition":
            self._disposition = bytes(self._header_value)
        elif name == b"content-transfer-encoding":
            self._encoding = bytes(self._header_value).strip().lower()
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        disposition, encoding = self._disposition, self._encoding
        self._disposition = self._encoding = b""
        options = options_of(disposition)
        if b"name" not in options:
            raise self._nameless("A part of the form has no name; name every field.")
        self._name = name = options[b"name"].decode(errors="replace")
        if name == _CHARSET_FIELD:
            self._charsets += 1
            if self._charsets > _MAX_CHARSETS:
                raise ValidationFailed(f"The form has too many fields '{name}'; send one.")
            return
        if name not in self._fields:
            known = ", ".join(f"'{known}'" for known in self._fields)
            detail = f"The form has no field '{name[:64]}'. Its fields: {known}. {self._hint}"
            raise ValidationFailed(detail.rstrip())
        if encoding not in _PLAIN_ENCODINGS:
            sent = encoding[:64].decode("latin-1")
            raise ValidationFailed(
                f"'{name}' is sent in {sent} (Content-Transfer-Encoding). Send its bytes."
            )
        parts = self._parts.setdefault(name, [])
        max_count = self._fields[name].max_count
        if len(parts) == max_count:
            times = "once" if max_count == 1 else f"{max_count} times"
            raise ValidationFailed(f"A request may hold '{name}' {times} at most; send fewer.")
        parts.append(Part(filename_of(disposition, options)))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == _CHARSET_FIELD:
            return
        part, spec = self._parts[self._name][-1], self._fields[self._name]
        if part.error is not None:
            return
        part.size += end - start
        if part.size <= spec.max_bytes:
            part.append(memoryview(data)[start:end])
            return
        error = spec.too_large or PayloadTooLarge(
            f"'{self._name}' may have {spec.max_bytes:,} bytes; send less."
        )
        if not spec.skip_too_large:
            raise error
        part.drop(error)

    def _on_part_end(self) -> None:
        if self._name != _CHARSET_FIELD:
            self._completed.append(self._name)

    def _on_end(self) -> None:
        self._ended = True


class _Preamble:
    """Drops what precedes the first boundary, which RFC 2046 allows and the parser does not.

    Args:
        boundary: The first boundary, as it stands in the body.
    """

    def __init__(self, boundary: bytes) -> None:
        self._boundary = boundary
        self._kept = b"\r\n"  # as if before the body, so that each boundary follows a line's end
        self._dropped = 0
        self._found = False

    def drop(self, chunk: bytes) -> bytes:
        """What of the next chunk belongs to the form.

        Raises:
            BadRequest: The preamble is too long.
        """
        if self._found:
            return chunk
        data = self._kept + chunk
        start = data.find(b"\n" + self._boundary)
        if start >= 0:
            self._found = True
            return data[start + 1 :]
        self._dropped += len(chunk)
        if self._dropped > _MAX_PREAMBLE_BYTES:
            raise BadRequest(_MALFORMED)
        self._kept = data[-len(self._boundary) :]
        return b""


def _text(name: str, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValidationFailed(f"'{name}' is not UTF-8.") from None
    if not is_printable(text):
        raise ValidationFailed(f"'{name}' is empty or not printable; leave it out.")
    return text
