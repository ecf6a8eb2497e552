"""The headers of a form's parts, in the spellings that clients use.

RFC 7578 wants `filename` in UTF-8. Older clients send `filename*` (RFC 8187), encoded words (RFC
2047) or Latin-1, and browsers write a quote as `%22`. A file name is only displayed, so a wrong
guess does no harm; the name of a field is never guessed.

The client names the character set. Python has codecs that take quadratic time (punycode, idna), and
remembers every name that it was asked for, so only a few are known here.
"""

import re
from email.errors import HeaderParseError
from email.header import decode_header
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header

_EXTENDED = re.compile(
    rb"(?i);\s*filename\*\s*=\s*\"?([\w.:-]{1,40})'[\w-]{0,20}'([^\s;\"]*)"  # charset'language'text
)
_CHARSETS = {
    **dict.fromkeys(("utf-8", "utf8"), "utf-8"),
    **dict.fromkeys(("us-ascii", "ascii"), "ascii"),
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin-1", "latin1"), "latin-1"),
    **dict.fromkeys(("iso-8859-15", "latin-9"), "iso8859-15"),
    **dict.fromkeys(("windows-1252", "cp1252"), "cp1252"),
    **dict.fromkeys(("windows-1251", "cp1251"), "cp1251"),
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    "shift_jis": "cp932",
}
_MAX_SEMICOLONS = 64  # for each that is in quotes the parser counts all quotes before it
_ENCODED_WORDS = re.compile(r"(?:=\?[\w.:-]{1,40}\?[bBqQ]\?[^?]*\?=\s*)+")


def options_of(disposition: bytes) -> dict[bytes, bytes]:
    """The parameters of a Content-Disposition header; none if they are far too many."""
    if disposition.count(b";") > _MAX_SEMICOLONS:
        return {}
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
    known = _CHARSETS.get(charset.lower())
    try:
        return None if known is None else data.decode(known)
    except ValueError:  # not in that charset
        return None
