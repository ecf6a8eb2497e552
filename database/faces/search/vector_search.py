"""Search among more templates than fit in memory, by an HNSW index of PostgreSQL with pgvector.

An index needs plain numbers, but templates are encrypted. It therefore holds the embeddings rotated
by a secret rotation, which preserves every distance and hides the embeddings;
docs/decisions/0005-rotated-vectors-in-the-index.md says what this protects against. The first
process that searches after a change updates the index, from the same source as `Gallery`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from contracts.errors import Unavailable
from contracts.faces.subjects import EMBEDDING_SIZE, Candidate
from contracts.queue.messages import Vector
from database.crypto.envelope import EnvelopeCipher
from database.engine import advisory_lock, reading, writing
from database.faces.search.gallery_source import EVERYTHING, Changes, GallerySource
from database.faces.search.vector_tables import make_tables

log = structlog.get_logger()

_LOCK = 0x0951_0004  # see `database.engine.advisory_lock`
_INSERT_BATCH = 200
_TRIES = 3
# That the index returns, at first and at most; the best one of each subject counts. 0.1 s for the
# most, and pgvector looks at no more than 20,000 rows by itself.
_FIRST_TEMPLATES, _MOST_TEMPLATES = 200, 12_800
_MOST_AT_ONCE = 1000  # that pgvector keeps in mind
_ITERATIVE_SINCE = (0, 8)  # the version of pgvector
_STATE = text("SELECT embedder, key_id, revision FROM face_vectors_state WHERE id = 1")
_WRITE_STATE = text(
    """INSERT INTO face_vectors_state (id, embedder, key_id, revision)
    VALUES (1, :embedder, :key_id, :revision)
    ON CONFLICT (id) DO UPDATE SET embedder = :embedder, key_id = :key_id, revision = :revision"""
)
_VERSION = text("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
_DELETE = text("DELETE FROM face_vectors WHERE subject_id = ANY(:ids)")
# A subject that is being erased at this moment is left out and needs no vector.
_INSERT = text(
    """INSERT INTO face_vectors (subject_id, turned)
    SELECT id, CAST(:turned AS vector) FROM subjects WHERE id = :subject_id"""
)
_NEAREST = text(
    """SELECT subject_id, -(turned <#> CAST(:turned AS vector)) AS similarity
    FROM face_vectors ORDER BY turned <#> CAST(:turned AS vector) LIMIT :limit"""
)


class VectorSearch:
    """Approximate nearest-neighbor search by pgvector; the index may miss a subject.

    Args:
        engine: A PostgreSQL that has the extension `vector`.
        cipher: The rotation is derived from its first key.
    """

    def __init__(self, engine: Engine, source: GallerySource, cipher: EnvelopeCipher) -> None:
        self._engine = engine
        self._source = source
        self._cipher = cipher
        self._last: VectorRotation | None = None
        self._is_iterative = False

    def prepare(self) -> None:
        """Create the tables and the index if they do not exist; call it before the others.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The server has no pgvector.
        """
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)
            make_tables(session)
            version: str = session.execute(_VERSION).scalar_one()
        self._is_iterative = tuple(map(int, version.split(".")[:2])) >= _ITERATIVE_SINCE
        if not self._is_iterative:
            log.warning("pgvector_is_old", version=version, hint="Faces may be missed before 0.8.")

    def nearest(
        self, vectors: Vector, *, embedder: str, min_similarity: float, limit: int
    ) -> list[list[Candidate]]:
        """See `contracts.faces.subjects.FaceSearch`.

        Raises:
            Unavailable: The searching processes do not agree on the keys or the embedder.
        """
        for _ in range(_TRIES):
            rotation = self._rotation()
            self._update(embedder, rotation)
            with reading(self._engine) as session:
                if self._is_iterative:
                    # Rows that were replaced stay in the index until a vacuum. Without this, they
                    # count, and those of one subject hide everybody who is less similar.
                    session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
                results = [
                    _nearest(session, rotated, min_similarity, limit)
                    for rotated in vectors @ rotation.matrix
                ]
                state = session.execute(_STATE).first()
            # A process with another key or embedder may have refilled the index in the meantime.
            if state is not None and tuple(state)[:2] == (embedder, rotation.key_id):
                return results
        raise Unavailable("The index of faces is being rebuilt. Retry soon.", retry_after=2)

    def refresh(self) -> None:
        """Do nothing: the foreign key deletes the vectors of erased subjects."""

    def _rotation(self) -> "VectorRotation":
        """The rotation for the key that encrypts now; recomputed when that key changes."""
        key_id, secret = self._cipher.derive("vector rotation")
        rotation = self._last
        if rotation is None or rotation.key_id != key_id:
            rotation = self._last = VectorRotation(key_id, rotation_matrix(secret))
        return rotation

    def _update(self, embedder: str, rotation: "VectorRotation") -> None:
        current = (embedder, rotation.key_id, self._source.revision())
        with reading(self._engine) as session:
            state = session.execute(_STATE).first()
        if state is not None and tuple(state) == current:
            return
        with writing(self._engine) as session:
            advisory_lock(session.connection(), _LOCK)
            state = session.execute(_STATE).first()
            since = state.revision if state and tuple(state)[:2] == current[:2] else EVERYTHING
            if since == EVERYTHING:
                session.execute(text("TRUNCATE face_vectors"))
            changes = self._source.changes(since, embedder=embedder)
            _apply(session, changes, rotation)
            session.execute(
                _WRITE_STATE,
                {"embedder": embedder, "key_id": current[1], "revision": changes.revision},
            )


@dataclass(frozen=True, slots=True)
class VectorRotation:
    """A rotation matrix, and the id of the key that it is derived from."""

    key_id: str
    matrix: Vector


def _apply(session: Session, changes: Changes, rotation: VectorRotation) -> None:
    session.execute(_DELETE, {"ids": list(changes.subjects)})
    rows = [
        {"subject_id": subject_id, "turned": _literal(rotated)}
        for subject_id, vectors in changes.subjects.items()
        for rotated in vectors @ rotation.matrix
    ]
    for start in range(0, len(rows), _INSERT_BATCH):
        session.execute(_INSERT, rows[start : start + _INSERT_BATCH])


def rotation_matrix(secret: bytes) -> Vector:
    """A rotation that can only be computed with the secret, (128, 128) float32.

    The QR decomposition of normally distributed numbers, with the signs corrected, is uniformly
    distributed over all rotations and reflections (Mezzadri, 2007,
    https://arxiv.org/abs/math-ph/0609050). The numbers come from AES in counter mode by the
    Box-Muller method, so that every release of NumPy computes the same ones.

    Args:
        secret: 32 bytes.
    """
    count = EMBEDDING_SIZE * EMBEDDING_SIZE
    stream = Cipher(AES(secret), CTR(bytes(16))).encryptor().update(bytes(8 * 2 * count))
    uniform = (np.frombuffer(stream, "<u8") >> 11).astype(np.float64) / 2**53
    radius = np.sqrt(-2 * np.log1p(-uniform[:count]))
    normal = radius * np.cos(2 * np.pi * uniform[count:])
    q, r = np.linalg.qr(normal.reshape(EMBEDDING_SIZE, EMBEDDING_SIZE))
    matrix: Vector = (q * np.sign(np.diag(r))).astype(np.float32)
    return matrix


def _nearest(
    session: Session, rotated: Vector, min_similarity: float, limit: int
) -> list[Candidate]:
    """The candidates for a vector, of as many templates as are needed to find `limit` subjects."""
    templates = _FIRST_TEMPLATES
    while True:
        rows = _query(session, rotated, templates)
        best = _best(rows, min_similarity, limit)
        is_all = len(rows) < templates or rows[-1][1] < min_similarity
        if len(best) == limit or is_all or templates == _MOST_TEMPLATES:
            return best
        templates = min(8 * templates, _MOST_TEMPLATES)


def _query(session: Session, rotated: Vector, templates: int) -> Sequence[tuple[str, float]]:
    session.execute(text(f"SET LOCAL hnsw.ef_search = {min(templates, _MOST_AT_ONCE)}"))
    rows = session.execute(_NEAREST, {"turned": _literal(rotated), "limit": templates})
    return [(row.subject_id, float(row.similarity)) for row in rows]


def _best(rows: Sequence[tuple[str, float]], min_similarity: float, limit: int) -> list[Candidate]:
    """The best similarity of each subject; the rows are sorted, nearest first."""
    best: dict[str, float] = {}
    for subject_id, similarity in rows:
        if similarity >= min_similarity:
            best.setdefault(subject_id, similarity)
    return [Candidate(subject_id, similarity) for subject_id, similarity in best.items()][:limit]


def _literal(vector: Vector) -> str:
    return "[" + ",".join(f"{number:.8g}" for number in vector) + "]"
