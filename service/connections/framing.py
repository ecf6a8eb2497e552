"""What a chunked body may have beside its content: sizes and extensions of chunks, and trailers.

The parser takes time with the square of the length of a trailer, and nothing else would end a body
that has no content: none waits to be read.
"""

MAX_FRAMING_BYTES = 16 * 1024
_SHARE = 16  # and so many bytes for each of the content: chunks of one byte take five


class Framing:
    """Of one body, so far."""

    def __init__(self) -> None:
        self._content = 0
        self._total = 0
        self._latest = 0  # since the last content

    def add(self, parsed: int, content: int) -> None:
        """Count bytes that were parsed, of which some were content."""
        self._content += content
        self._total += parsed - content
        self._latest = parsed - content + (0 if content else self._latest)

    @property
    def is_too_long(self) -> bool:
        """Whether far too much is no content."""
        allowed = MAX_FRAMING_BYTES + _SHARE * self._content
        return self._latest > MAX_FRAMING_BYTES or self._total > allowed
