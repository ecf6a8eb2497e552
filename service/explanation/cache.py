"""Answers about reasons that were given before, by what was asked and of which pixels.

In this process and not in Redis: there it would compete with the queues, which must never be
evicted, and cost a round trip for a kilobyte. A version never changes and its number never comes
back, so nothing has to be invalidated. Belongs to one event loop.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from contracts.queue.messages import Pixels, Vector

Key = tuple[str, int, bytes, int, bytes]

# What Python adds to an entry: its key, two objects and a place in the table.
_OVERHEAD_BYTES = 600


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer: numbers, and the note that says what they mean."""

    vector: Vector
    note: bytes

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return self.vector.nbytes + len(self.note) + _OVERHEAD_BYTES


def key_of(model: str, version: int, note: bytes, class_index: int, pixels: Pixels) -> Key:
    """Equal for equal questions about equal pixels, whatever file they came in."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.data)
    return model, version, note, class_index, digest.digest()


class ExplanationCache:
    """The answers asked for last.

    Args:
        most_bytes: That all together may take. 0 keeps none.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_on(self) -> bool:
        """Whether anything is kept, and a key worth computing."""
        return self._most_bytes > 0

    def get(self, key: Key) -> Kept | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Key, kept: Kept) -> None:
        """Keep an answer; those asked for longest ago make room for it."""
        if kept.size > self._most_bytes:
            return
        if key in self._kept:
            self.bytes -= self._kept.pop(key).size
        self._kept[key] = kept
        self.bytes += kept.size
        while self.bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.size
