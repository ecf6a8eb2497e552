"""Recent explanations, by request, version and pixels.

They are cached in this process and not in Redis: there they would compete with the queues, which
must never be evicted, and cost a round trip for a kilobyte. A version never changes and its number
is never reused, so nothing has to be invalidated. Belongs to one event loop.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from contracts.queue.messages import Pixels, Vector

Key = tuple[str, int, bytes, int, bytes]

# What Python adds to an entry: its key, two objects and a slot in the table.
_OVERHEAD_BYTES = 600


@dataclass(frozen=True, slots=True)
class CachedExplanation:
    """The numbers of a reply, and the note that says what they mean."""

    vector: Vector
    note: bytes

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        return self.vector.nbytes + len(self.note) + _OVERHEAD_BYTES


def key_of(model: str, version: int, note: bytes, class_index: int, pixels: Pixels) -> Key:
    """Equal for equal requests about equal pixels, whatever file they came in."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    return model, version, note, class_index, digest.digest()


class ExplanationCache:
    """The most recently used explanations.

    Args:
        max_bytes: Of all entries together. 0 switches the cache off.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, CachedExplanation] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def enabled(self) -> bool:
        """Whether anything is cached, so that a key is worth computing."""
        return self._max_bytes > 0

    def get(self, key: Key) -> CachedExplanation | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Key, entry: CachedExplanation) -> None:
        """Add an entry; the least recently used ones make room for it."""
        if entry.size > self._max_bytes:
            return
        if key in self._entries:
            self.bytes -= self._entries.pop(key).size
        self._entries[key] = entry
        self.bytes += entry.size
        while self.bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.size
