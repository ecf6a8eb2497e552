"""Exact search among all templates in memory, as one matrix product.

Every process holds its own matrix. Before each search it reads the revision, which every change of
a template increases (`database.faces.search.gallery_source`), with one small query. If it is
another one, the later revisions of subjects are read, or all if a checksum says that these are not
all changes, and the templates of those that changed, and no others, are decrypted. Removed rows are
overwritten with zeros.
"""

import threading
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from contracts.faces.subjects import EMBEDDING_SIZE, Candidate
from contracts.queue.messages import Vector
from database.engine import batches
from database.faces.search.gallery_source import GallerySource, checksum_of

_INITIAL_ROWS = 1024
_NO_VECTORS: Vector = np.empty((0, EMBEDDING_SIZE), np.float32)
_VECTORS_AT_ONCE = 8  # whose scores are in memory together: 4 bytes per template and vector


class Gallery:
    """Implements `contracts.faces.subjects.FaceSearch`; searches and updates are serialized."""

    def __init__(self, source: GallerySource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._embedder: str | None = None
        self._revision: int | None = None
        self._known: dict[str, int] = {}  # the revision of each subject whose vectors were read
        self._partition = Partition()

    def nearest(
        self, vectors: Vector, *, embedder: str, min_similarity: float, limit: int
    ) -> list[list[Candidate]]:
        """See `contracts.faces.subjects.FaceSearch`."""
        with self._lock:
            self._update(embedder)
            results: list[list[Candidate]] = []
            for start in range(0, len(vectors), _VECTORS_AT_ONCE):
                batch = vectors[start : start + _VECTORS_AT_ONCE]
                results += self._partition.nearest(
                    batch, min_similarity=min_similarity, limit=limit
                )
            return results

    def refresh(self) -> None:
        """See `contracts.faces.subjects.FaceSearch`."""
        with self._lock:
            if self._embedder is not None:
                self._update(self._embedder)

    @property
    def rows(self) -> Vector:
        """The vectors in memory, (n, 128) float32; a view, for tests and measurements."""
        return self._partition.vectors

    def _update(self, embedder: str) -> None:
        if embedder != self._embedder:
            self._partition.wipe()
            self._partition = Partition()
            self._embedder, self._revision, self._known = embedder, None, {}
        # Read first: a later change is then read twice rather than missed.
        revision = self._source.revision()
        if revision == self._revision:
            return
        changed = self._changed()
        for batch in batches(list(changed)) if self._known else [None]:
            vectors = self._source.vectors(batch, embedder=embedder)
            for subject_id in changed if batch is None else batch:
                # One that has been erased meanwhile has no vectors.
                self._partition.put(subject_id, vectors.get(subject_id, _NO_VECTORS))
                self._known[subject_id] = changed[subject_id]
        self._revision = revision

    def _changed(self) -> dict[str, int]:
        """The new revision of each subject with other templates; forgets those without any.

        After a failover, the database may lack the last changes, and those made instead may be
        older. So all revisions are compared, unless a checksum shows that only later ones differ.
        """
        if self._known and self._revision is not None:
            later = self._source.revisions(self._revision)
            if checksum_of(self._known | later) == self._source.checksum():
                return later
        revisions = self._source.revisions()
        self._partition.retain(revisions)
        self._known = {one: of for one, of in self._known.items() if one in revisions}
        return {one: of for one, of in revisions.items() if self._known.get(one) != of}


class Partition:
    """The vectors of one embedder in a matrix without gaps, and the subject of each row."""

    def __init__(self) -> None:
        self._rows: Vector = np.zeros((_INITIAL_ROWS, EMBEDDING_SIZE), np.float32)
        self._owners: npt.NDArray[np.int32] = np.zeros(_INITIAL_ROWS, np.int32)
        self._count = 0
        self._ids: list[str | None] = []  # by owner number; None if the number is free
        self._numbers: dict[str, int] = {}
        self._rows_by_owner: dict[int, list[int]] = {}
        self._free_numbers: list[int] = []

    def __len__(self) -> int:
        """Number of subjects with vectors."""
        return len(self._numbers)

    @property
    def vectors(self) -> Vector:
        """All vectors, (n, 128); a view."""
        return self._rows[: self._count]

    @property
    def bytes(self) -> int:
        """Memory for the vectors, including unused capacity."""
        return self._rows.nbytes + self._owners.nbytes

    def put(self, subject_id: str, vectors: Vector) -> None:
        """Replace the vectors of a subject."""
        self._remove(subject_id)
        if not len(vectors):
            return
        number = self._free_numbers.pop() if self._free_numbers else len(self._ids)
        if number == len(self._ids):
            self._ids.append(None)
        self._ids[number] = subject_id
        self._numbers[subject_id] = number
        start, end = self._count, self._count + len(vectors)
        self._grow(end)
        self._rows[start:end] = vectors
        self._owners[start:end] = number
        self._rows_by_owner[number] = list(range(start, end))
        self._count = end

    def retain(self, ids: Collection[str]) -> None:
        """Remove all subjects except those."""
        for subject_id in self._numbers.keys() - set(ids):
            self._remove(subject_id)

    def wipe(self) -> None:
        """Overwrite all vectors; the partition cannot be used afterwards."""
        self._rows[: self._count] = 0

    def nearest(
        self, vectors: Vector, *, min_similarity: float, limit: int
    ) -> list[list[Candidate]]:
        """See `contracts.faces.subjects.FaceSearch`."""
        if not self._count:
            return [[] for _ in vectors]
        return [self._best(scores, min_similarity, limit) for scores in vectors @ self.vectors.T]

    def _best(self, scores: Vector, min_similarity: float, limit: int) -> list[Candidate]:
        """The best score of each subject with one of at least `min_similarity`, best first."""
        rows = np.flatnonzero(scores >= min_similarity)
        if not len(rows):
            return []
        similarities = scores[rows]
        order = np.argsort(-similarities, kind="stable")
        ranked, owners = similarities[order], self._owners[rows[order]]
        best = np.sort(np.unique(owners, return_index=True)[1])[:limit]
        return [Candidate(self._id(int(owners[rank])), float(ranked[rank])) for rank in best]

    def _id(self, number: int) -> str:
        subject_id = self._ids[number]
        if subject_id is None:
            raise RuntimeError("a vector without a subject")
        return subject_id

    def _grow(self, rows: int) -> None:
        """Make room by doubling; the old matrix is overwritten."""
        if rows <= len(self._rows):
            return
        size = max(rows, 2 * len(self._rows))
        old_rows, old_owners = self._rows, self._owners
        self._rows = np.zeros((size, EMBEDDING_SIZE), np.float32)
        self._owners = np.zeros(size, np.int32)
        self._rows[: self._count] = old_rows[: self._count]
        self._owners[: self._count] = old_owners[: self._count]
        old_rows[:] = 0

    def _remove(self, subject_id: str) -> None:
        """Fill each removed row with the last one, so that there are never gaps."""
        number = self._numbers.pop(subject_id, None)
        if number is None:
            return
        for row in sorted(self._rows_by_owner.pop(number), reverse=True):
            last = self._count - 1
            if row != last:
                self._rows[row] = self._rows[last]
                owner = self._owners[row] = self._owners[last]
                owned = self._rows_by_owner[int(owner)]
                owned.remove(last)
                owned.append(row)
            self._rows[last] = 0
            self._count = last
        self._ids[number] = None
        self._free_numbers.append(number)
