"""How a command writes: streams that take every text, and what the options of all commands say.

It loads nothing else, so that `opsin --help` answers at once.
"""

import codecs
import io
import re
import sys
from contextvars import ContextVar

quiet: ContextVar[bool] = ContextVar("quiet", default=False)
"""Whether `--quiet` was given: only results and errors are printed."""

debug: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether `--debug` was given: an unexpected failure shows its stack trace."""

# Control characters, and those that reorder the text around them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_UNSEEN = re.compile(rf"(?![\n\t]){_CONTROL.pattern}")  # within a text of several lines
_ERRORS = "opsin-stream"


def prepare_streams() -> None:
    r"""Make stdout and stderr take every text, so that printing never fails.

    Bytes of file names that are not UTF-8 pass as they are, so that another program can use them;
    a character that the terminal's encoding lacks is written as `\u2713`.
    """
    codecs.register_error(_ERRORS, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def shown(name: object) -> str:
    r"""A file name or another foreign text as it can be printed, sent and stored anywhere.

    Bytes that are not UTF-8 and control characters become escapes such as `\xe9`.
    """
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(_escaped, text)


def printable(text: str) -> str:
    """A text of one or more lines without what a terminal would obey rather than show."""
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return character.encode("ascii", "surrogateescape"), error.start + 1
    return character.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1
