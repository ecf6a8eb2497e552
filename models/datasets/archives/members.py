"""The files of an archive or a folder, and the check of their names.

No file is ever unpacked under the name that was sent: an image is stored under the hash of its
content. Malicious names are refused nevertheless, since they are never sent by mistake.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from contracts.errors import InvalidArchive
from contracts.names import composed
from models.datasets.archives.limits import Limits

_DRIVE = re.compile(r"^[A-Za-z]:/")  # without the slash it is a name, such as that of a class
# What macOS, Windows, Synology, QNAP, Python and others leave in folders.
_SYSTEM = frozenset(
    {
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin"),
        *("system volume information", "recycler", "found.000", "picasa.ini", "zbthumbnail.info"),
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@synoresource"),
        *("@tmp", "lost+found", "__pycache__"),
    }
)
_TEMPORARY = ("~$", "._")
_MOST_STORED = 4  # bytes of a name as it is stored, for one in composed UTF-8


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an upload. It must be read before the next one is requested.

    Attributes:
        path: The checked name, with parts separated by ``/``, in Unicode's composed form.
        size: In bytes, as declared.
        read: Reads at most the given number of bytes.
        fault: A code and a detail if the file must not be read.
    """

    path: str
    size: int
    read: Callable[[int], bytes]
    fault: tuple[str, str] | None = None


def member_of(path: str, data: bytes) -> Member:
    """A member whose content is in memory."""
    return Member(path, len(data), lambda limit: data[:limit])


def read_nothing(_limit: int) -> bytes:
    """The `read` of a faulty member."""
    return b""


def checked_name(name: str, limits: Limits) -> str:
    """Check and normalize a name.

    Raises:
        InvalidArchive: The name leads out of the folder, is interpreted differently by different
            programs, or is too long.
    """
    if "\0" in name:
        raise _refused(name, "has a NUL in its name")
    # Windows programs separate folders by backslashes, whatever the zip format says.
    name = name.replace("\\", "/")
    if name.startswith("/") or _DRIVE.match(name):
        raise _refused(name, "has an absolute path; pack with relative ones")
    plain = composed(name.encode("utf-8", "replace").decode())
    parts = [part for part in plain.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise _refused(name, "leads out of the archive by '..'")
    if len(parts) > limits.depth:
        raise _refused(name, f"is more than {limits.depth} folders deep")
    if len(plain.encode()) > limits.name_bytes:
        raise _refused(name, _too_long(limits))
    return "/".join(parts)


def require_short(raw: bytes, limits: Limits) -> bytes:
    """The name as it is stored; asked before its encoding is guessed, which takes a while.

    Raises:
        InvalidArchive: It is too long in any encoding.
    """
    if len(raw) > _MOST_STORED * limits.name_bytes:
        raise _refused(raw[:100].decode("ascii", "replace"), _too_long(limits))
    return raw


def is_hidden(path: str) -> bool:
    """Whether a file is hidden or was added by an operating system."""
    return any(
        part.startswith((".", *_TEMPORARY)) or part.lower() in _SYSTEM for part in path.split("/")
    )


def printable(name: str) -> str:
    """A name for an error message: printable and not too long."""
    plain = name.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else "?" for c in plain)[:100]


def too_many(limits: Limits) -> InvalidArchive:
    """The error for too many entries."""
    return InvalidArchive(f"It contains more than {limits.files:,} files. Split it up.")


def too_large(limits: Limits) -> InvalidArchive:
    """The error for too many unpacked bytes."""
    return InvalidArchive(
        f"It unpacks to more than {limits.total_bytes:,} bytes. Send smaller or fewer images."
    )


def _too_long(limits: Limits) -> str:
    return f"has a path of more than {limits.name_bytes} bytes"


def _refused(name: str, reason: str) -> InvalidArchive:
    return InvalidArchive(f"'{printable(name)}' {reason}. Nothing in the archive was imported.")
