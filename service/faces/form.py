"""Reads a form of pictures or a video with some words beside it, while it arrives and in memory.

Every field has its bounds; a body that breaks one ends at once, before the rest is read.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from contracts.errors import (
    BadRequest,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
)
from service.http.uploads import FORM_TYPE

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_HEADERS_A_PART = 16
_HEADER_BYTES = 4096
_MALFORMED = "The multipart body is malformed. Let your HTTP client build it and set the boundary."


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a field may be.

    Attributes:
        most_bytes: Of one part.
        most: Parts of that name.
    """

    most_bytes: int
    most: int = 1


TEXT = Allowed(512)
"""A word, such as an id."""

Heard = Mapping[str, Callable[[str], Awaitable[None]]]
"""By field, what is done with a word as soon as it is there; it may refuse the rest."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form that was read."""

    parts: Mapping[str, list[bytes]] = field(repr=False)  # a log wants no video, nor its bytes

    def files(self, name: str) -> list[bytes]:
        """The files of that name, in order.

        Raises:
            ValidationFailed: One of them is empty.
        """
        found = self.parts.get(name, [])
        if not all(found):
            raise ValidationFailed(f"A part '{name}' is empty; send the file's bytes.")
        return found

    def text(self, name: str) -> str | None:
        """A word; None where it was not sent.

        Raises:
            ValidationFailed: It is empty, or cannot be printed.
        """
        return _text(name, self.parts[name][0]) if name in self.parts else None


async def read_form(
    request: Request, allowed: Mapping[str, Allowed], heard: Heard | None = None
) -> Form:
    """The form of a request.

    Args:
        request: The request, its body unread.
        allowed: Its fields.
        heard: What is done with words before the rest is read; what that raises ends the upload.

    Raises:
        UnsupportedMediaType: It is no form.
        BadRequest: The form is malformed.
        ValidationFailed: It holds something else, or too many of something.
        PayloadTooLarge: A part is too large.
        ClientDisconnect: The client hung up.
    """
    content_type = request.headers.get("Content-Type", "")
    if content_type.partition(";")[0].strip().lower() != FORM_TYPE:
        raise UnsupportedMediaType(f"Set Content-Type to {FORM_TYPE}.")
    return await _Reader(content_type, allowed, heard or {}).read(request.stream())


def _text(name: str, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValidationFailed(f"'{name}' is not UTF-8.") from None
    if not text or not text.isprintable():
        raise ValidationFailed(f"'{name}' is empty or cannot be printed; leave it out.")
    return text


class _Reader:
    def __init__(self, content_type: str, allowed: Mapping[str, Allowed], heard: Heard) -> None:
        self._allowed = allowed
        self._heard = heard
        self._parts: dict[str, list[BytesIO]] = {}
        self._field = ""
        self._unheard: list[str] = []
        self._name = bytearray()
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
            "on_part_end": self._on_part_end,
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

    async def read(self, stream: AsyncIterator[bytes]) -> Form:
        try:
            async for chunk in stream:
                self._parser.write(chunk)
                await self._tell()
        except FormParserError:
            raise BadRequest(_MALFORMED) from None
        if not self._ended:
            raise BadRequest(_MALFORMED)
        # Not copied: a stream that nobody writes to any more hands out the bytes that it holds.
        return Form({name: [one.getvalue() for one in some] for name, some in self._parts.items()})

    async def _tell(self) -> None:
        """Speak of the words that have come to their end since it was last called."""
        while self._unheard:
            name = self._unheard.pop(0)
            await self._heard[name](_text(name, self._parts[name][-1].getvalue()))

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._disposition = b""
        field = options.get(b"name", b"").decode(errors="replace")
        if field not in self._allowed:
            known = ", ".join(f"'{name}'" for name in self._allowed)
            raise ValidationFailed(f"The form's fields are {known}; '{field[:64]}' is not known.")
        parts = self._parts.setdefault(field, [])
        most = self._allowed[field].most
        if len(parts) == most:
            raise ValidationFailed(f"'{field}' may be sent {most} times at most.")
        parts.append(BytesIO())
        self._field = field

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part, most = self._parts[self._field][-1], self._allowed[self._field].most_bytes
        if part.tell() + end - start > most:
            raise PayloadTooLarge(f"'{self._field}' may have {most:,} bytes; send less.")
        part.write(memoryview(data)[start:end])

    def _on_part_end(self) -> None:
        if self._field in self._heard:
            self._unheard.append(self._field)

    def _on_end(self) -> None:
        self._ended = True
