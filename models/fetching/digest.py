"""Whether a file is the one it should be, judged by the digest its publisher gives."""

import hashlib
from pathlib import Path

CHUNK = 1024 * 1024


class Check:
    """Digests a stream and compares it with what was promised.

    Args:
        digest: ``sha256:<64 digits>``, ``sha256-prefix:<first digits>`` or ``md5:<32 digits>``.
    """

    def __init__(self, digest: str) -> None:
        kind, self._promised = digest.split(":")
        # md5 guards against damage only; it stands where the publisher gives nothing better, for
        # files that come over TLS and are read as plain numbers.
        self._hash = hashlib.md5(usedforsecurity=False) if kind == "md5" else hashlib.sha256()

    def update(self, data: bytes) -> None:
        self._hash.update(data)

    def passed(self) -> bool:
        return self._hash.hexdigest().startswith(self._promised)


def matches(path: Path, digest: str) -> bool:
    """Whether the file at `path` has that digest; reads it all.

    Raises:
        OSError: The file cannot be read.
    """
    check = Check(digest)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            check.update(chunk)
    return check.passed()
