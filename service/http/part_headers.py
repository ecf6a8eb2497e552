"""The headers of a form's parts, in the spellings that clients use.

RFC 7578 wants `filename` in UTF-8. Older clients send `filename*` (RFC 5987), encoded words (RFC
2047) or Latin-1, and browsers write a quote as `%22`. A file name is only displayed, so a wrong
guess does no harm; the name of a field is never guessed.
"""

import re
from email.errors import HeaderParseError
from email.header import decode_header
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header

_EXTENDED = re.compile(
    rb"(?i);\s*filename\*\s*=\s*\"?([\w.:-]{1,40})'[\w-]{0,20}'([^\s;\"]*)"  # charset'language'text
)
_ENCODED_WORDS = re.compile(r"(?:=\?[\w.:-]{1,40}\?[bBqQ]\?[^?]*\?=\s*)+")


def options_of(disposition: bytes) -> dict[bytes, bytes]:
    """The parameters of a Content-Disposition header."""
    return parse_options_header(disposition)[1]


def filename_of(disposition: bytes, options: dict[bytes, bytes]) -> str | None:
    """The file name that a part was sent with, unsanitised; None if there is none.

    Args:
        disposition: The Content-Disposition header of the part.
        options: Its parameters.
    """
    extended = _EXTENDED.search(disposition)
    if extended is not None:
        name = _decoded(unquote_to_bytes(extended[2]), extended[1].decode())
        if name is not None:
            return name
    plain = options.get(b"filename")
    if plain is None:
        return None
    name = _decoded(plain, "utf-8")
    if name is None:  # Latin-1 has a character for every byte
        return plain.decode("latin-1")
    return _without_encoded_words(name).replace("%22", '"')


def _without_encoded_words(name: str) -> str:
    if not _ENCODED_WORDS.fullmatch(name):
        return name
    try:
        words = decode_header(name)
    except (HeaderParseError, ValueError):
        return name
    texts = [
        word if isinstance(word, str) else _decoded(word, charset or "ascii")
        for word, charset in words
    ]
    return name if None in texts else "".join(text or "" for text in texts) or name


def _decoded(data: bytes, charset: str) -> str | None:
    try:
        return data.decode(charset)
    except (LookupError, ValueError):  # unknown to Python, or not in that charset
        return None
