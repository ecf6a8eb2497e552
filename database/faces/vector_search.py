"""Search among more templates than memory should hold: PostgreSQL with pgvector, by an HNSW index.

An index needs plain numbers, which sealed templates are not. So it holds them turned by a secret
rotation, which keeps every distance and shows no embedding; what that is worth and what it is not
stands in docs/decisions/0005-rotated-vectors-in-the-index.md. It is filled from the same source as
the search in memory, by whichever process is asked first after a change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from contracts.errors import Unavailable
from contracts.faces.subjects import LENGTH, Candidate
from contracts.queue.messages import Vector
from database.crypto.envelope import Sealer
from database.engine import alone, reading, writing
from database.faces.gallery_source import EVERYTHING, Changes, GallerySource

_LOCK = 0x0951_0004  # see `database.engine.alone`
_ROWS_AT_ONCE = 200
_TRIES = 3
_LOOKED_AT = 200  # templates that the index hands over, of which the best of each subject counts
_TABLES = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    f"""CREATE TABLE IF NOT EXISTS face_vectors (
        id bigserial PRIMARY KEY,
        subject_id varchar(64) NOT NULL REFERENCES subjects (id) ON DELETE CASCADE,
        turned vector({LENGTH}) NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS face_vectors_subject ON face_vectors (subject_id)",
    """CREATE INDEX IF NOT EXISTS face_vectors_nearest
        ON face_vectors USING hnsw (turned vector_ip_ops)""",
    """CREATE TABLE IF NOT EXISTS face_vectors_state (
        id integer PRIMARY KEY,
        embedder varchar(80) NOT NULL,
        key_id varchar(32) NOT NULL,
        revision bigint NOT NULL)""",
)
_STATE = text("SELECT embedder, key_id, revision FROM face_vectors_state WHERE id = 1")
_KEEP_STATE = text(
    """INSERT INTO face_vectors_state (id, embedder, key_id, revision)
    VALUES (1, :embedder, :key_id, :revision)
    ON CONFLICT (id) DO UPDATE SET embedder = :embedder, key_id = :key_id, revision = :revision"""
)
_DROP = text("DELETE FROM face_vectors WHERE subject_id = ANY(:ids)")
# A subject that was erased this very moment is left out, and needs no vector any more.
_ADD = text(
    """INSERT INTO face_vectors (subject_id, turned)
    SELECT id, CAST(:turned AS vector) FROM subjects WHERE id = :subject_id"""
)
_NEAREST = text(
    """SELECT subject_id, -(turned <#> CAST(:turned AS vector)) AS similarity
    FROM face_vectors ORDER BY turned <#> CAST(:turned AS vector) LIMIT :most"""
)


class VectorSearch:
    """Nearest-neighbour search by pgvector, approximate: the index may miss a subject.

    Args:
        engine: A PostgreSQL that has the extension `vector`.
        source: What there is.
        sealer: Of whose first key the rotation is made.
    """

    def __init__(self, engine: Engine, source: GallerySource, sealer: Sealer) -> None:
        self._engine = engine
        self._source = source
        self._sealer = sealer
        self._last: Turn | None = None

    def prepare(self) -> None:
        """Make the tables and the index where they are not there.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The server has no pgvector.
        """
        with writing(self._engine) as session:
            alone(session.connection(), _LOCK)
            for statement in _TABLES:
                session.execute(text(statement))

    def nearest(
        self, vectors: Vector, *, embedder: str, above: float, most: int
    ) -> list[list[Candidate]]:
        """See `contracts.faces.subjects.FaceSearch`.

        Raises:
            Unavailable: The keys or the embedder of the processes that search are not the same.
        """
        for _ in range(_TRIES):
            turn = self._turn()
            self._renew(embedder, turn)
            with reading(self._engine) as session:
                session.execute(text(f"SET LOCAL hnsw.ef_search = {_LOOKED_AT}"))
                found = [
                    _best(_ask(session, turned), above, most) for turned in vectors @ turn.rotation
                ]
                kept = session.execute(_STATE).first()
            # Filled anew meanwhile, by who knows another key, it holds other numbers than asked.
            if kept is not None and tuple(kept)[:2] == (embedder, turn.key_id):
                return found
        raise Unavailable("The index of faces is being made anew. Retry soon.", retry_after=2)

    def forget(self) -> None:
        """Nothing to be done: erased subjects take their vectors along, by the foreign key."""

    def _turn(self) -> "Turn":
        """The rotation of the key that seals now; made again when another does."""
        key_id, secret = self._sealer.derived("vector rotation")
        turn = self._last
        if turn is None or turn.key_id != key_id:
            turn = self._last = Turn(key_id, rotation_of(secret))
        return turn

    def _renew(self, embedder: str, turn: "Turn") -> None:
        now = (embedder, turn.key_id, self._source.revision())
        with reading(self._engine) as session:
            kept = session.execute(_STATE).first()
        if kept is not None and tuple(kept) == now:
            return
        with writing(self._engine) as session:
            alone(session.connection(), _LOCK)
            kept = session.execute(_STATE).first()
            since = kept.revision if kept and tuple(kept)[:2] == now[:2] else EVERYTHING
            if since == EVERYTHING:
                session.execute(text("TRUNCATE face_vectors"))
            changes = self._source.changes(since, embedder=embedder)
            _apply(session, changes, turn)
            state = {"embedder": embedder, "key_id": now[1], "revision": changes.revision}
            session.execute(_KEEP_STATE, state)


@dataclass(frozen=True, slots=True)
class Turn:
    """A rotation, and the key it is made of."""

    key_id: str
    rotation: Vector


def _apply(session: Session, changes: Changes, turn: Turn) -> None:
    session.execute(_DROP, {"ids": list(changes.subjects)})
    rows = [
        {"subject_id": subject_id, "turned": _written(turned)}
        for subject_id, vectors in changes.subjects.items()
        for turned in vectors @ turn.rotation
    ]
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        session.execute(_ADD, rows[start : start + _ROWS_AT_ONCE])


def rotation_of(secret: bytes) -> Vector:
    """A rotation of the space that only who knows the secret can make, (128, 128) float32.

    The QR decomposition of normally distributed numbers, signs put right, is uniformly distributed
    over all rotations and reflections (Mezzadri, 2007, https://arxiv.org/abs/math-ph/0609050). The
    numbers come from AES in counter mode by Box and Muller's method, so that every release of NumPy
    makes the same ones.

    Args:
        secret: 32 bytes.
    """
    count = LENGTH * LENGTH
    stream = Cipher(AES(secret), CTR(bytes(16))).encryptor().update(bytes(8 * 2 * count))
    uniform = (np.frombuffer(stream, "<u8") >> 11).astype(np.float64) / 2**53
    radius = np.sqrt(-2 * np.log1p(-uniform[:count]))
    normal = radius * np.cos(2 * np.pi * uniform[count:])
    q, r = np.linalg.qr(normal.reshape(LENGTH, LENGTH))
    turned: Vector = (q * np.sign(np.diag(r))).astype(np.float32)
    return turned


def _ask(session: Session, turned: Vector) -> Sequence[tuple[str, float]]:
    rows = session.execute(_NEAREST, {"turned": _written(turned), "most": _LOOKED_AT})
    return [(row.subject_id, float(row.similarity)) for row in rows]


def _best(found: Sequence[tuple[str, float]], above: float, most: int) -> list[Candidate]:
    """The best of each subject; the rows come with the nearest first."""
    best: dict[str, float] = {}
    for subject_id, similarity in found:
        if similarity >= above:
            best.setdefault(subject_id, similarity)
    return [Candidate(*one) for one in best.items()][:most]


def _written(vector: Vector) -> str:
    return "[" + ",".join(f"{number:.8g}" for number in vector) + "]"
