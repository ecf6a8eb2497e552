"""How a command writes: streams that take every text, and what the options of all commands say.

It loads hardly anything else, so that `opsin --help` answers at once.
"""

import codecs
import io
import sys
from contextvars import ContextVar

from contracts.printable import printable_line

quiet: ContextVar[bool] = ContextVar("quiet", default=False)
"""Whether `--quiet` was given: only results and errors are printed."""

debug: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether `--debug` was given: an unexpected failure shows its stack trace."""

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
    return printable_line(text)


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return character.encode("ascii", "surrogateescape"), error.start + 1
    return character.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1
