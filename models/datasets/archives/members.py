"""The files of an archive or a folder, one after another, and which of their names are honest.

Nothing is ever unpacked under a name that was sent: a picture is stored under the hash of its
content. Dishonest names are refused all the same, since nobody sends one by mistake.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from contracts.errors import InvalidArchive
from models.datasets.archives.limits import Limits

_DRIVE = re.compile(r"^[A-Za-z]:")
_SYSTEM = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "$recycle.bin"})


@dataclass(frozen=True, slots=True)
class Member:
    """A file that was sent. Read it before the next one is asked for.

    Attributes:
        path: Its checked name, parts joined by ``/``, in Unicode's composed form.
        size: Bytes, as declared.
        read: Reads at most so many bytes of it.
        fault: A code and a detail where it must not be read.
    """

    path: str
    size: int
    read: Callable[[int], bytes]
    fault: tuple[str, str] | None = None


def unread(_limit: int) -> bytes:
    """What a faulty member reads as."""
    return b""


def checked_name(name: str, limits: Limits) -> str:
    """The name in its plain form.

    Raises:
        InvalidArchive: It leads out of the folder, or means different things to different
            programs, or is endless.
    """
    if "\0" in name:
        raise _refused(name, "has a NUL in its name")
    if "\\" in name:
        raise _refused(name, "has a backslash in its name; use forward slashes")
    if name.startswith("/") or _DRIVE.match(name):
        raise _refused(name, "has an absolute path; pack with relative ones")
    plain = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    parts = [part for part in plain.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise _refused(name, "leads out of the archive by '..'")
    if len(parts) > limits.depth:
        raise _refused(name, f"lies more than {limits.depth} folders deep")
    if len(plain.encode()) > limits.name_bytes:
        raise _refused(name, f"has a path of more than {limits.name_bytes} bytes")
    return "/".join(parts)


def is_hidden(path: str) -> bool:
    """Whether a file is a system's own note and no picture of the sender."""
    return any(part.startswith(".") or part.lower() in _SYSTEM for part in path.split("/"))


def shown(name: str) -> str:
    """A name fit for a message: printable, and not endless."""
    plain = name.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else "?" for c in plain)[:100]


def too_many(limits: Limits) -> InvalidArchive:
    """The refusal of more entries than are allowed."""
    return InvalidArchive(f"It holds more than {limits.files:,} files. Split it up.")


def too_large(limits: Limits) -> InvalidArchive:
    """The refusal of more bytes than are allowed."""
    return InvalidArchive(
        f"It unpacks to more than {limits.total_bytes:,} bytes. Send smaller pictures or fewer."
    )


def _refused(name: str, why: str) -> InvalidArchive:
    return InvalidArchive(f"'{shown(name)}' {why}. Nothing of the archive was taken.")
