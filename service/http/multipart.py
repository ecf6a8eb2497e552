"""Reads the images of a `multipart/form-data` body while it arrives, in memory and within limits.

python-multipart does the parsing. Starlette's wrapper around it would spool every part to disk and
keep a part of any size; here a part that grows over the limit is dropped as it comes, and costs no
more than its own result.
"""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from contracts.errors import BadRequest, ValidationFailed

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "image"
_HEADERS_A_PART = 16
_HEADER_BYTES = 4096
_MALFORMED = "The multipart body is malformed. Let your HTTP client build it and set the boundary."


class Part:
    """One `image` field as it arrives.

    Attributes:
        filename: As it was sent, unsanitised; None if none was.
        data: The bytes so far; empty once the part is too large.
        too_large: Whether it outgrew the limit.
    """

    __slots__ = ("data", "filename", "too_large")

    def __init__(self, filename: str | None) -> None:
        self.filename = filename
        self.data = bytearray()
        self.too_large = False


class ImageForm:
    """A form being read: feed it the stream, and take its parts.

    Args:
        content_type: The request's header, which holds the boundary.
        max_parts: Images a form may hold.
        max_part_bytes: Bytes an image may have.

    Raises:
        BadRequest: There is no usable boundary.
    """

    def __init__(self, content_type: str, *, max_parts: int, max_part_bytes: int) -> None:
        self.parts: list[Part] = []
        self._max_parts = max_parts
        self._max_part_bytes = max_part_bytes
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

    async def read(self, stream: AsyncIterator[bytes]) -> list[Part]:
        """All parts, once the stream has ended.

        Raises:
            BadRequest: The body is malformed or ends too early.
            ValidationFailed: It holds another field than `image`, or too many.
        """
        try:
            async for chunk in stream:
                self._parser.write(chunk)
        except FormParserError:
            raise BadRequest(_MALFORMED) from None
        if not self._ended:
            raise BadRequest(_MALFORMED)
        return self.parts

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
        name = options.get(b"name")
        if name is None:
            raise BadRequest(_MALFORMED)
        if name != FIELD.encode():
            shown = name[:64].decode(errors="replace")
            raise ValidationFailed(f"The form field is called '{FIELD}'; '{shown}' is not known.")
        if len(self.parts) == self._max_parts:
            raise ValidationFailed(f"A request takes {self._max_parts} images; split the rest off.")
        filename = options.get(b"filename")
        self.parts.append(Part(None if filename is None else filename.decode(errors="replace")))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        if part.too_large:
            return
        if len(part.data) + end - start > self._max_part_bytes:
            part.too_large = True
            part.data.clear()
            return
        part.data += memoryview(data)[start:end]

    def _on_end(self) -> None:
        self._ended = True
