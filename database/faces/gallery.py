"""Search among all templates, exact and in memory: one matrix, one product, one pass over it.

Every process holds its own matrix. Before each search it asks for the number that every change
raises (`database.faces.gallery_source`), which costs one small query, and opens the templates of
those subjects that changed, and of no others. Rows that go are overwritten with zeros.
"""

import threading
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from contracts.faces.subjects import LENGTH, Candidate
from contracts.queue.messages import Vector
from database.faces.gallery_source import EVERYTHING, GallerySource

_FIRST_ROWS = 1024
_VECTORS_AT_ONCE = 8  # their scores are held at once: 4 bytes a template and vector


class Gallery:
    """Implements `contracts.faces.subjects.FaceSearch`. Searches and changes take turns.

    Args:
        source: What there is.
    """

    def __init__(self, source: GallerySource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._embedder: str | None = None
        self._revision = EVERYTHING
        self._shelf = Shelf()

    def nearest(
        self, vectors: Vector, *, embedder: str, above: float, most: int
    ) -> list[list[Candidate]]:
        """See `contracts.faces.subjects.FaceSearch`."""
        with self._lock:
            self._renew(embedder)
            found: list[list[Candidate]] = []
            for start in range(0, len(vectors), _VECTORS_AT_ONCE):
                some = vectors[start : start + _VECTORS_AT_ONCE]
                found += self._shelf.nearest(some, above=above, most=most)
            return found

    def forget(self) -> None:
        """See `contracts.faces.subjects.FaceSearch`."""
        with self._lock:
            if self._embedder is not None:
                self._renew(self._embedder)

    @property
    def rows(self) -> Vector:
        """What is held now, (n, 128) float32; a view, for tests and measurements."""
        return self._shelf.vectors

    def _renew(self, embedder: str) -> None:
        if embedder != self._embedder:
            self._shelf.wipe()
            self._shelf = Shelf()
            self._embedder, self._revision = embedder, EVERYTHING
        elif self._source.revision() == self._revision:
            return
        changes = self._source.changes(self._revision, embedder=embedder)
        for subject_id, vectors in changes.subjects.items():
            self._shelf.put(subject_id, vectors)
        # Asked at every change, and by id: a count would be right by accident where somebody was
        # erased and somebody else cannot be opened. Who was added meanwhile comes with the next.
        self._shelf.keep(self._source.subjects(embedder=embedder))
        self._revision = changes.revision


class Shelf:
    """Vectors in one matrix without gaps, and whose they are."""

    def __init__(self) -> None:
        self._rows: Vector = np.zeros((_FIRST_ROWS, LENGTH), np.float32)
        self._owners: npt.NDArray[np.int32] = np.zeros(_FIRST_ROWS, np.int32)
        self._count = 0
        self._ids: list[str | None] = []  # by owner's number; None where the number is free
        self._numbers: dict[str, int] = {}
        self._places: dict[int, list[int]] = {}  # rows by owner's number
        self._free: list[int] = []

    def __len__(self) -> int:
        """How many subjects have vectors here."""
        return len(self._numbers)

    @property
    def vectors(self) -> Vector:
        """All of them, (n, 128); a view."""
        return self._rows[: self._count]

    @property
    def bytes(self) -> int:
        """What the vectors take, the room for more counted."""
        return self._rows.nbytes + self._owners.nbytes

    def put(self, subject_id: str, vectors: Vector) -> None:
        """Hold these of a subject, in place of what was held."""
        self._drop(subject_id)
        if not len(vectors):
            return
        number = self._free.pop() if self._free else len(self._ids)
        if number == len(self._ids):
            self._ids.append(None)
        self._ids[number] = subject_id
        self._numbers[subject_id] = number
        start, end = self._count, self._count + len(vectors)
        self._grow(end)
        self._rows[start:end] = vectors
        self._owners[start:end] = number
        self._places[number] = list(range(start, end))
        self._count = end

    def keep(self, ids: Collection[str]) -> None:
        """Drop all others."""
        for subject_id in self._numbers.keys() - set(ids):
            self._drop(subject_id)

    def wipe(self) -> None:
        """Overwrite all that is held; the shelf is of no use after."""
        self._rows[: self._count] = 0

    def nearest(self, vectors: Vector, *, above: float, most: int) -> list[list[Candidate]]:
        """See `contracts.faces.subjects.FaceSearch`."""
        if not self._count:
            return [[] for _ in vectors]
        return [self._best(scores, above, most) for scores in vectors @ self.vectors.T]

    def _best(self, scores: Vector, above: float, most: int) -> list[Candidate]:
        """The best score of each subject that has one of at least `above`, the best first."""
        rows = np.flatnonzero(scores >= above)
        if not len(rows):
            return []
        found = scores[rows]
        order = np.argsort(-found, kind="stable")
        ranked, owners = found[order], self._owners[rows[order]]
        best = np.sort(np.unique(owners, return_index=True)[1])[:most]
        return [Candidate(self._id(int(owners[at])), float(ranked[at])) for at in best]

    def _id(self, number: int) -> str:
        found = self._ids[number]
        if found is None:
            raise RuntimeError("a vector without an owner")
        return found

    def _grow(self, rows: int) -> None:
        """Make room by doubling; what is left behind is overwritten."""
        if rows <= len(self._rows):
            return
        size = max(rows, 2 * len(self._rows))
        old_rows, old_owners = self._rows, self._owners
        self._rows = np.zeros((size, LENGTH), np.float32)
        self._owners = np.zeros(size, np.int32)
        self._rows[: self._count] = old_rows[: self._count]
        self._owners[: self._count] = old_owners[: self._count]
        old_rows[:] = 0

    def _drop(self, subject_id: str) -> None:
        """Fill each row that goes with the last one, so that there is never a gap."""
        number = self._numbers.pop(subject_id, None)
        if number is None:
            return
        for row in sorted(self._places.pop(number), reverse=True):
            last = self._count - 1
            if row != last:
                self._rows[row] = self._rows[last]
                mover = self._owners[row] = self._owners[last]
                places = self._places[int(mover)]
                places.remove(last)
                places.append(row)
            self._rows[last] = 0
            self._count = last
        self._ids[number] = None
        self._free.append(number)
