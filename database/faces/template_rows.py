"""Queries on rows of subjects, templates and frames that several repositories share."""

import secrets
from collections.abc import Collection

import numpy as np
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from contracts.errors import NeedsOperator, SubjectNotFound
from contracts.faces.faces import Quality
from contracts.faces.subjects import EMBEDDING_SIZE, Template
from contracts.queue.messages import Vector
from database.crypto.envelope import MISSING_KEY_HELP, DataKey, DecryptionError, EnvelopeCipher
from database.engine import advisory_lock
from database.tables import (
    FaceFileRecord,
    FaceGalleryRecord,
    FaceTemplateRecord,
    SubjectRecord,
)

NO_REVISION = 0
"""Of a subject that never had a template."""

_DTYPE = np.dtype("<f4")
_LOCK = 0x0951_0010  # see `database.engine.advisory_lock`
_MAX_STEP = 2**32  # of the revision; 64 bits are enough for four billion changes


class Unreadable(NeedsOperator):
    """A subject's data cannot be decrypted; the database works and other subjects are readable."""

    is_passing = False


class Damaged(Unreadable):
    """A stored frame or embedding is damaged or lost; the rest of the subject's data is not."""


def find_subject(session: Session, subject_id: str, *, locked: bool = False) -> SubjectRecord:
    """Load a subject, optionally locking its row until the transaction ends.

    Raises:
        SubjectNotFound: There is no such subject.
    """
    row = session.get(SubjectRecord, subject_id, with_for_update=locked or None)
    if row is None:
        raise SubjectNotFound(
            "There is no subject with that id. `GET /v1/faces/subjects` lists all."
        )
    return row


def increment_revision(session: Session) -> int:
    """Record that templates changed; transactions that do so are serialized from here on.

    A replica that becomes the primary without the last changes must not give their revisions to
    others. Therefore the steps are random.
    """
    row, step = FaceGalleryRecord, 1 + secrets.randbelow(_MAX_STEP)
    incremented = update(row).values(revision=row.revision + step).returning(row.revision)
    revision = session.execute(incremented).scalar()
    if revision is None:  # two first changes at the same moment would both add it
        advisory_lock(session.connection(), _LOCK)
        revision = session.execute(incremented).scalar()
    if revision is None:
        session.add(row(id=1, revision=step))
        session.flush()
        return step
    return revision


def delete_templates(
    session: Session, subject_id: str, ids: Collection[str]
) -> tuple[list[str], int]:
    """Delete templates of a subject, and the rows of their frames.

    Returns:
        The ids of the frames, whose files the caller deletes after the transaction, and the number
        of deleted templates.
    """
    template, file = FaceTemplateRecord, FaceFileRecord
    selected = (template.subject_id == subject_id) & template.id.in_(ids)
    with_frame = select(template.file_id).where(selected, template.file_id.is_not(None))
    files = [file_id for file_id in session.scalars(with_frame) if file_id is not None]
    deleted = session.scalars(delete(template).where(selected).returning(template.id)).all()
    session.execute(delete(file).where(file.subject_id == subject_id, file.id.in_(files)))
    return files, len(deleted)


def data_key_of(cipher: EnvelopeCipher, subject: SubjectRecord) -> DataKey:
    """Decrypt the data key of a subject.

    Raises:
        Unreadable: The master key that encrypted it is missing.
    """
    try:
        return cipher.decrypt_data_key(subject.data_key, subject.id)
    except DecryptionError as error:
        raise unreadable_error() from error


def encrypt_vector(key: DataKey, vector: Vector, template_id: str, embedder: str) -> bytes:
    """Encrypt an embedding, bound to its row and its embedder.

    Raises:
        ValueError: It is not a vector of 128 numbers and unit length.
    """
    if vector.shape != (EMBEDDING_SIZE,) or not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:
        raise ValueError(f"a template needs {EMBEDDING_SIZE} numbers and unit length")
    return key.encrypt(vector.astype(_DTYPE).tobytes(), _template_purpose(template_id, embedder))


def decrypt_vector(key: DataKey, encrypted: bytes, template_id: str, embedder: str) -> Vector:
    """Decrypt an embedding, (128,) float32.

    Raises:
        DecryptionError: It belongs to another row, or was changed.
    """
    plain = key.decrypt(encrypted, _template_purpose(template_id, embedder))
    return np.frombuffer(plain, _DTYPE).astype(np.float32)


def template_of(row: FaceTemplateRecord, key: DataKey) -> Template:
    """Decrypt a row.

    Raises:
        Damaged: It belongs to another row, or was changed.
    """
    try:
        vector = decrypt_vector(key, row.sealed, row.id, row.embedder)
    except DecryptionError as error:
        raise damaged_error(f"embedding {row.id}") from error
    return Template(
        id=row.id,
        vector=vector,
        quality=Quality.model_validate(row.quality),
        source="video" if row.source == "video" else "image",
        file_id=row.file_id,
        created_at=row.created_at,
    )


def frame_purpose(file_id: str) -> str:
    """Encryption purpose of a frame."""
    return f"frame {file_id}"


def unreadable_error() -> Unreadable:
    """The error for a subject whose data key cannot be decrypted; the log says why."""
    return Unreadable(
        f"The subject's data cannot be decrypted: {MISSING_KEY_HELP}",
        retry_after=60,
    )


def damaged_error(what: str) -> Damaged:
    """The error for one frame or embedding, named by `what`, which its key does not decrypt."""
    return Damaged(
        f"The stored {what} is damaged or missing. Enroll the subject again, or restore a backup.",
        retry_after=60,
    )


def _template_purpose(template_id: str, embedder: str) -> str:
    return f"template {template_id} {embedder}"
