"""The master keys: read from the settings, or kept in a file that only its owner may read."""

import base64
import binascii
import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY_BYTES = 32
_TURN_SECONDS = 10.0
_ENTRY = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,32}):(?P<key>[A-Za-z0-9+/_=-]+)")


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its name; the name is no secret."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key(id={self.id!r})"


def read_keys(text: str) -> tuple[Key, ...]:
    """The keys in ``id:base64,id:base64``, the first of which seals.

    Raises:
        ValueError: Something else stands there; the message holds no key.
    """
    entries = [entry for entry in re.split(r"[,\s]+", text) if entry]
    keys = tuple(_read_key(entry) for entry in entries)
    if not keys:
        raise ValueError("name at least one key, as id:base64 of 32 bytes")
    if len({key.id for key in keys}) < len(keys):
        raise ValueError("each key needs an id of its own")
    return keys


def _read_key(entry: str) -> Key:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise ValueError("a key is written id:base64, the id of 1 to 32 letters, digits, - and _")
    try:
        secret = base64.b64decode(found["key"].replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        raise ValueError(f"the key '{found['id']}' is not base64") from None
    if len(secret) != KEY_BYTES:
        raise ValueError(f"the key '{found['id']}' has {len(secret)} bytes and not {KEY_BYTES}")
    return Key(found["id"], secret)


class KeyFile:
    """Master keys in a file of mode 0600, made when it is first needed.

    Args:
        path: A key a line, the one that seals first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[Key, ...]:
        """All keys; where there is no file yet, one is made with a fresh key.

        Raises:
            ValueError: Others may read the file, or it holds something else.
            OSError: It cannot be read or made.
        """
        if not self._path.exists():
            self._place(_line(_fresh_key()), replace=False)
        if self._path.stat().st_mode & 0o077:
            raise ValueError(f"{self._path.name} must be readable by its owner alone (chmod 600)")
        return read_keys(self._path.read_text())

    def add(self) -> Key:
        """Put a fresh key before all others; from now on it seals.

        Raises:
            ValueError: As `read`.
            OSError: As `read`.
        """
        key = _fresh_key()
        with self._changing():
            self._place("".join(map(_line, (key, *self.read()))), replace=True)
        return key

    def keep(self, ids: Sequence[str]) -> None:
        """Forget all keys but those and the first."""
        with self._changing():
            keys = self.read()
            kept = [key for key in keys if key is keys[0] or key.id in ids]
            self._place("".join(map(_line, kept)), replace=True)

    @property
    def stamp(self) -> tuple[int, int] | None:
        """Another value than before: the file was changed."""
        try:
            seen = self._path.stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_ino

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Processes that change the file take turns, by a lock on a file beside it.

        Raises:
            TimeoutError: Another one takes far too long.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self._path.with_name(f"{self._path.name}.lock")
        with os.fdopen(os.open(beside, os.O_RDWR | os.O_CREAT, 0o600), "r+") as lock:
            deadline = time.monotonic() + _TURN_SECONDS
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError("the keys' file is being changed") from None
                    time.sleep(0.01)
            yield

    def _place(self, content: str, *, replace: bool) -> None:
        """Write the file whole; of processes that make it at once, one wins."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._path.with_name(f".{secrets.token_hex(8)}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                part.replace(self._path)
            else:
                try:
                    self._path.hardlink_to(part)
                except FileExistsError:
                    return
        finally:
            part.unlink(missing_ok=True)


def _fresh_key() -> Key:
    return Key(f"k{secrets.token_hex(4)}", secrets.token_bytes(KEY_BYTES))


def _line(key: Key) -> str:
    return f"{key.id}:{base64.b64encode(key.secret).decode()}\n"
