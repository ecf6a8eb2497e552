"""Master keys, read from the settings or from a file that only its owner may read."""

import base64
import binascii
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from contracts.files import write_durably

KEY_BYTES = 32
_LOCK_SECONDS = 10.0
_ENTRY = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,32}):(?P<key>[A-Za-z0-9+/_=-]+)")


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its id; the id is not secret."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key(id={self.id!r})"


def read_keys(text: str) -> tuple[Key, ...]:
    """Parse ``id:base64,id:base64``; the first key encrypts.

    Raises:
        ValueError: The text is malformed; the message contains no key.
    """
    entries = [entry for entry in re.split(r"[,\s]+", text) if entry]
    keys = tuple(_read_key(entry) for entry in entries)
    if not keys:
        raise ValueError("name at least one key, as id:base64 of 32 bytes")
    if len({key.id for key in keys}) < len(keys):
        raise ValueError("each key needs a different id")
    return keys


def _read_key(entry: str) -> Key:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError("a key is written id:base64, the id of 1 to 32 letters, digits, - and _")
    try:
        secret = base64.b64decode(match["key"].replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        raise ValueError(f"the key '{match['id']}' is not base64") from None
    if len(secret) != KEY_BYTES:
        raise ValueError(f"the key '{match['id']}' has {len(secret)} bytes, not {KEY_BYTES}")
    return Key(match["id"], secret)


class KeyFile:
    """A file of mode 0600 with one master key per line, the one that encrypts first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Whether there is such a file."""
        return self._path.exists()

    def create(self) -> None:
        """Create the file with a new key; one that exists remains as it is.

        Raises:
            OSError: It cannot be created.
        """
        self._write(_line(_new_key()), replace=False)

    def read(self) -> tuple[Key, ...]:
        """Return all keys.

        Raises:
            ValueError: Others may read the file, or it is malformed.
            OSError: It cannot be read, or does not exist.
        """
        if self._path.stat().st_mode & 0o077:
            raise ValueError(f"{self._path.name} must be readable only by its owner (chmod 600)")
        return read_keys(self._path.read_text())

    def add(self) -> Key:
        """Put a new key before all others, of which there is one; from now on it encrypts.

        Raises:
            ValueError: As `read`.
            OSError: As `read`.
        """
        key = _new_key()
        with self._locked():
            self._write("".join(map(_line, (key, *self.read()))), replace=True)
        return key

    @property
    def version(self) -> tuple[int, int] | None:
        """Changes whenever the file changes; None if the file cannot be examined."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Serialize changes of the file among processes, by a lock on a file next to it.

        Raises:
            TimeoutError: Another process holds the lock too long.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_path = self._path.with_name(f"{self._path.name}.lock")
        with os.fdopen(os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
            deadline = time.monotonic() + _LOCK_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError("another process is changing the key file") from None
                    time.sleep(0.01)
            yield

    def _write(self, content: str, *, replace: bool) -> None:
        """Write the file atomically; if several processes create it at once, one wins."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._path, content.encode(), replaces=replace)


def _new_key() -> Key:
    return Key(f"k{secrets.token_hex(4)}", secrets.token_bytes(KEY_BYTES))


def _line(key: Key) -> str:
    return f"{key.id}:{base64.b64encode(key.secret).decode()}\n"
