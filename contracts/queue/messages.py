"""An image on its way to a worker, and the reply on its way back: a fixed header, then raw bytes.

Neither pickle nor JSON: packing a 224 x 224 x 3 image as bytes takes microseconds, as JSON lists
190 ms. All integers are little-endian. The item's id comes first, after the magic number, so that
the Lua scripts that move items can read it without knowing the rest.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from contracts.tracing.origin import NO_ORIGIN, Origin, split_origin, with_origin

Pixels = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]
ReadShared: TypeAlias = Callable[[bytes, bytes, int], Pixels]
"""Reads pixels by their handle, the item's id and their length in bytes; see `shared_pixels`."""

# magic, id, attempt, deadline (Unix seconds), enqueued (Unix seconds), height, width, length of
# reply_to, class, length of note
_ITEM = struct.Struct("<4s16sBddHHBiH")
_ITEM_MAGIC = b"OPI2"
_SHARED_ITEM_MAGIC = b"OPS2"  # ends with a handle in place of the pixels
# magic, id, ok, version, batch size, queue seconds, compute seconds, length of note
_REPLY = struct.Struct("<4s16s?IHffI")
_REPLY_MAGIC = b"OPR2"
_LENGTH = struct.Struct("<I")

ID_OFFSET = 5  # 1-based, as Lua counts: the id is bytes 5 to 20 of an item and of a reply
ID_LENGTH = 16
IMAGE_ID_LENGTH = 12
"""So many bytes at the beginning of an id tell one image from another.

If a client asks several models about an image, it is an item of each one's queue, and only the rest
of the ids differs. A worker need not compute it twice.
"""

_LATEST_SECONDS = 600.0
"""An image leaves Redis with its queue, soon after the deadline of the last one in it."""

TOP_CLASS = -1
"""In place of a class: the most probable one."""


class MalformedMessageError(ValueError):
    """The bytes are not a message of this version of Opsin."""


@dataclass(frozen=True, slots=True)
class Item:
    """One decoded image in a queue.

    Attributes:
        id: 16 bytes, of which the first 12 are random; see `IMAGE_ID_LENGTH`.
        deadline: Unix time in seconds, by `RedisClock`, after which no client waits for the answer.
        enqueued: Unix time in seconds, by `RedisClock`, at which the item was made.
        reply_to: Name of the Redis list that receives the reply.
        pixels: RGB, shape (height, width, 3), uint8.
        attempt: 1, or 2 after the first worker that took it was lost.
        class_index: The class to explain; unused by a classification.
        note: JSON with what the operation alone does not say. Items with the same note may share
            a batch.
        origin: The request it belongs to, for logs and traces; travels as a member of the note.
    """

    id: bytes
    deadline: float
    enqueued: float
    reply_to: str
    pixels: Pixels
    attempt: int = 1
    class_index: int = TOP_CLASS
    note: bytes = b""
    origin: Origin = NO_ORIGIN

    @property
    def image_id(self) -> bytes:
        """The same for items with the same pixels that belong to one request."""
        return self.id[:IMAGE_ID_LENGTH]

    def is_late(self, now: float) -> bool:
        """Whether its deadline has passed, so that no client waits for the answer.

        If that seems to be long ago, the clock of Redis was set forward instead, and the sender has
        not measured it yet.
        """
        return 0 <= now - self.deadline < _LATEST_SECONDS

    def later(self, seconds: float) -> Self:
        """The same item if the clock was set forward since it was made."""
        deadline, enqueued = self.deadline + seconds, self.enqueued + seconds
        return replace(self, deadline=deadline, enqueued=enqueued)

    def pack(self, handle: bytes = b"") -> bytes:
        """The item as bytes.

        Args:
            handle: Of its pixels, if they do not travel with it; see `SharedPixels`.
        """
        reply_to, note = self.reply_to.encode(), with_origin(self.note, self.origin)
        height, width, _ = self.pixels.shape
        header = _ITEM.pack(
            _SHARED_ITEM_MAGIC if handle else _ITEM_MAGIC,
            self.id,
            self.attempt,
            self.deadline,
            self.enqueued,
            height,
            width,
            len(reply_to),
            self.class_index,
            len(note),
        )
        # Joined in one step, so that the pixels are copied only once.
        pixels = handle or np.ascontiguousarray(self.pixels).data
        return b"".join((header, reply_to, note, pixels))

    @classmethod
    def unpack(cls, raw: bytes, read_shared: ReadShared | None = None) -> Self:
        """Read an item; pixels that travel with it are a view of `raw`, not a copy.

        Args:
            raw: From `pack`.
            read_shared: Reads pixels that do not; without it, such an item is malformed.

        Raises:
            MalformedMessageError: The bytes are not an item, or its pixels cannot be read.
        """
        read = read_shared if raw[:4] == _SHARED_ITEM_MAGIC else None
        if len(raw) < _ITEM.size or (raw[:4] != _ITEM_MAGIC and read is None):
            raise MalformedMessageError("not an item")
        _, item_id, attempt, deadline, enqueued, *rest = _ITEM.unpack_from(raw)
        height, width, reply_to_length, class_index, note_length = rest
        note_offset = _ITEM.size + reply_to_length
        pixels_offset = note_offset + note_length
        length = height * width * 3
        if read is not None:
            pixels = read(raw[pixels_offset:], item_id, length)
        elif len(raw) - pixels_offset == length:
            pixels = np.frombuffer(raw, np.uint8, offset=pixels_offset)
        else:
            raise MalformedMessageError("an item of the wrong length")
        reply_to = _text(raw[_ITEM.size : note_offset])
        note, origin = split_origin(raw[note_offset:pixels_offset])
        shaped = pixels.reshape(height, width, 3)
        return cls(
            item_id, deadline, enqueued, reply_to, shaped, attempt, class_index, note, origin
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one item: a vector, or an error.

    Attributes:
        id: The item's id.
        version: The model version that answered.
        batch_size: How many images ran together with this one.
        queue_seconds: From the creation of the item to the start of its batch.
        compute_seconds: How long the batch took.
        vector: The network's output for this image, shape (n,), float32; None for an error.
        error: (code, detail) as in `contracts.errors`; None on success.
        note: JSON with what the vector means, where the operation alone does not say it.
    """

    id: bytes
    version: int
    batch_size: int
    queue_seconds: float
    compute_seconds: float
    vector: Vector | None = None
    error: tuple[str, str] | None = None
    note: bytes = b""

    def pack(self) -> bytes:
        header = _REPLY.pack(
            _REPLY_MAGIC,
            self.id,
            self.error is None,
            self.version,
            self.batch_size,
            self.queue_seconds,
            self.compute_seconds,
            len(self.note),
        )
        if self.error is not None:
            return header + "\n".join(self.error).encode()
        if self.vector is None:
            raise ValueError("a reply holds a vector or an error")
        return header + self.note + np.ascontiguousarray(self.vector, np.float32).tobytes()

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Read a reply.

        Raises:
            MalformedMessageError: The bytes are not a reply.
        """
        if len(raw) < _REPLY.size or raw[:4] != _REPLY_MAGIC:
            raise MalformedMessageError("not a reply")
        _, item_id, ok, version, batch_size, queued, computed, length = _REPLY.unpack_from(raw)
        if not ok:
            code, _, detail = _text(raw[_REPLY.size :]).partition("\n")
            return cls(item_id, version, batch_size, queued, computed, error=(code, detail))
        start = _REPLY.size + length
        if len(raw) < start or (len(raw) - start) % 4:
            raise MalformedMessageError("a vector of the wrong length")
        vector = np.frombuffer(raw[start:], np.float32)  # a copy, so that it is aligned
        note = raw[_REPLY.size : start]
        return cls(item_id, version, batch_size, queued, computed, vector=vector, note=note)


def pack_bundle(messages: Sequence[bytes]) -> bytes:
    """Several packed messages as one, each preceded by its length."""
    return b"".join(part for raw in messages for part in (_LENGTH.pack(len(raw)), raw))


def unpack_bundle(raw: bytes) -> list[bytes]:
    """The messages of a bundle, still packed.

    Raises:
        MalformedMessageError: The bytes are not a whole bundle.
    """
    messages, offset = [], 0
    while offset < len(raw):
        if len(raw) < offset + _LENGTH.size:
            raise MalformedMessageError("a truncated bundle")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset += _LENGTH.size
        if len(raw) < offset + length:
            raise MalformedMessageError("a truncated bundle")
        messages.append(raw[offset : offset + length])
        offset += length
    return messages


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise MalformedMessageError("text that is not UTF-8") from None
