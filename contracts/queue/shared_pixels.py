"""Pixels in memory that an API process shares with the workers of its host.

The queue then carries a handle of 20 bytes in place of the pixels. The memory is a file without a
name, which a worker opens through `/proc`: only a process of the same host, user and namespace can.
It is gone as soon as no process has it open, however those end.
"""

import fcntl
import mmap
import os
import secrets
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from contracts.queue.messages import ID_LENGTH, MalformedMessageError, Pixels

_FILE_NAME = "opsin-pixels"
# Random bytes, process id, file descriptor: at the beginning of the memory and of a handle.
_NAME = struct.Struct("<8sII")
# The name, then the offset of a slot, which begins with the id of an item.
_HANDLE = struct.Struct(f"<{_NAME.size}sI")
_SLOTS = 128
_SLOT_BYTES = 512 * 1024
# A file that shrinks would kill a process that reads it.
_SEALS: int = sum(getattr(fcntl, f"F_SEAL_{what}", 0) for what in ("SHRINK", "GROW", "SEAL"))


class SharedPixels:
    """The memory of one API process; used by its event loop alone.

    What was never used takes no memory, and the slot that was freed last is used next.

    Args:
        slots: The most images.
        slot_bytes: The room for each.

    Attributes:
        name: What workers find it by; unique.
    """

    def __init__(self, slots: int = _SLOTS, slot_bytes: int = _SLOT_BYTES) -> None:
        file = os.memfd_create(_FILE_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(file, mmap.PAGESIZE + slots * slot_bytes)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        self._file = file
        self._slot_bytes = slot_bytes
        self._memory = np.frombuffer(mmap.mmap(file, 0), np.uint8)
        self._free = [mmap.PAGESIZE + slot * slot_bytes for slot in reversed(range(slots))]
        self._used: dict[bytes, int] = {}
        self.name = _NAME.pack(secrets.token_bytes(8), os.getpid(), file)
        self._write(0, self.name)

    def put(self, item_id: bytes, pixels: Pixels) -> bytes:
        """Store the pixels of an item until `release`.

        Returns:
            The handle; empty if there is no room, or the image is too large.
        """
        if not self._free or ID_LENGTH + pixels.nbytes > self._slot_bytes:
            return b""
        offset = self._used[item_id] = self._free.pop()
        start = offset + ID_LENGTH
        # No id while the pixels are written, so that they cannot be taken for another item's.
        self._write(offset, bytes(ID_LENGTH))
        self._memory[start : start + pixels.nbytes] = pixels.ravel()
        self._write(offset, item_id)
        return _HANDLE.pack(self.name, offset)

    def release(self, item_id: bytes) -> None:
        """Free the slot of an item, if it has one; its answer is no longer needed."""
        offset = self._used.pop(item_id, None)
        if offset is not None:
            self._free.append(offset)

    def close(self) -> None:
        """From now on, no worker can open it."""
        os.close(self._file)

    def _write(self, offset: int, content: bytes) -> None:
        self._memory[offset : offset + len(content)] = np.frombuffer(content, np.uint8)


def open_shared_pixels() -> SharedPixels | None:
    """The memory of this process; None on a system without files that have no name, as macOS."""
    return SharedPixels() if hasattr(os, "memfd_create") else None


class SharedPixelsReader:
    """The memories of API processes that a worker has open; any thread may read them."""

    def __init__(self) -> None:
        self._memories: dict[bytes, Pixels] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Which it has open, in hexadecimal digits, sorted."""
        return tuple(sorted(name.hex() for name in list(self._memories)))  # others may add one

    def follow(self, names: Iterable[bytes]) -> None:
        """Open the memories of these names, as far as this process can, and close all others."""
        opened = {name: self._memory(name) for name in names}
        self._memories = {name: memory for name, memory in opened.items() if memory is not None}

    def read(self, handle: bytes, item_id: bytes, length: int) -> Pixels:
        """A copy of the pixels of an item.

        Args:
            handle: From `SharedPixels.put`.
            item_id: Whose pixels.
            length: How many bytes they are.

        Raises:
            MalformedMessageError: This process cannot open the memory, or the slot is another
                item's by now.
        """
        if len(handle) != _HANDLE.size:
            raise MalformedMessageError("a handle of the wrong length")
        name, offset = _HANDLE.unpack(handle)
        memory = self._memory(name)
        if memory is None:
            raise MalformedMessageError("pixels in memory that is gone, or on another host")
        self._memories[name] = memory
        start = offset + ID_LENGTH
        # Looked at before and after, since the slot may be used again during the copy.
        before = memory[offset:start].tobytes()
        pixels = memory[start : start + length].copy()
        if not before == memory[offset:start].tobytes() == item_id or len(pixels) != length:
            raise MalformedMessageError("pixels that have been overwritten")
        return pixels

    def _memory(self, name: bytes) -> Pixels | None:
        known = self._memories.get(name)
        return _opened(name) if known is None else known


def _opened(name: bytes) -> Pixels | None:
    """The memory of that name, to read only; None if it is gone or out of reach."""
    _, process, descriptor = _NAME.unpack(name)
    path = Path(f"/proc/{process}/fd/{descriptor}")
    try:
        # In another namespace it may be another process's, of which nothing else may be opened.
        if not path.readlink().match(f"/memfd:{_FILE_NAME}*"):
            return None
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if fcntl.fcntl(file, fcntl.F_GET_SEALS) != _SEALS:
                return None
            memory = np.frombuffer(mmap.mmap(file, 0, prot=mmap.PROT_READ), np.uint8)
        finally:
            os.close(file)
    except (OSError, ValueError):
        return None
    return memory if memory[: len(name)].tobytes() == name else None
