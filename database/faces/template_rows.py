"""How rows of subjects, templates and frames are found, sealed and opened."""

from collections.abc import Collection

import numpy as np
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from contracts.errors import SubjectNotFound, Unavailable
from contracts.faces.faces import Quality
from contracts.faces.subjects import LENGTH, Template
from contracts.queue.messages import Vector
from database.crypto.envelope import DataKey, Sealer, SealError
from database.tables import (
    FaceFileRecord,
    FaceGalleryRecord,
    FaceTemplateRecord,
    SubjectRecord,
)

_NUMBER = np.dtype("<f4")


def find(session: Session, subject_id: str, *, locked: bool = False) -> SubjectRecord:
    """The row of that id; locked against others until the transaction ends, if asked.

    Raises:
        SubjectNotFound: There is none.
    """
    row = session.get(SubjectRecord, subject_id, with_for_update=locked or None)
    if row is None:
        raise SubjectNotFound("There is no subject of that id. `GET /v1/faces/subjects` lists all.")
    return row


def raise_revision(session: Session) -> int:
    """Say that templates changed; transactions that do so take turns from here on."""
    row = FaceGalleryRecord
    raised = update(row).values(revision=row.revision + 1).returning(row.revision)
    revision = session.execute(raised).scalar()
    if revision is None:
        session.add(row(id=1, revision=1))
        session.flush()
        return 1
    return revision


def drop(session: Session, subject_id: str, ids: Collection[str]) -> tuple[list[str], int]:
    """Delete templates of a subject, and the rows of their frames.

    Returns:
        The ids of the frames, whose files the caller removes after the transaction, and how many
        templates there were.
    """
    template, file = FaceTemplateRecord, FaceFileRecord
    mine = (template.subject_id == subject_id) & template.id.in_(ids)
    with_frame = select(template.file_id).where(mine, template.file_id.is_not(None))
    files = [one for one in session.scalars(with_frame) if one is not None]
    gone = session.scalars(delete(template).where(mine).returning(template.id)).all()
    session.execute(delete(file).where(file.subject_id == subject_id, file.id.in_(files)))
    return files, len(gone)


def data_key_of(sealer: Sealer, subject: SubjectRecord) -> DataKey:
    """The subject's own key.

    Raises:
        Unreadable: The master key that sealed it is not here.
    """
    try:
        return sealer.open_data_key(subject.data_key, subject.id)
    except SealError as error:
        raise unreadable() from error


def sealed_vector(key: DataKey, vector: Vector, template_id: str, embedder: str) -> bytes:
    """An embedding as it is kept: bound to its row and to what made it.

    Raises:
        ValueError: It is no vector of length 1 in 128 numbers.
    """
    if vector.shape != (LENGTH,) or not abs(float(np.linalg.norm(vector)) - 1) < 1e-3:
        raise ValueError(f"a template has {LENGTH} numbers and length 1")
    return key.seal(vector.astype(_NUMBER).tobytes(), _purpose(template_id, embedder))


def opened_vector(key: DataKey, sealed: bytes, template_id: str, embedder: str) -> Vector:
    """The embedding, (128,) float32.

    Raises:
        SealError: It belongs to another row, or was changed.
    """
    plain = key.open(sealed, _purpose(template_id, embedder))
    return np.frombuffer(plain, _NUMBER).astype(np.float32)


def template_of(row: FaceTemplateRecord, key: DataKey) -> Template:
    """A row, opened.

    Raises:
        SealError: As `opened_vector`.
    """
    return Template(
        id=row.id,
        vector=opened_vector(key, row.sealed, row.id, row.embedder),
        quality=Quality.model_validate(row.quality),
        source="video" if row.source == "video" else "image",
        file_id=row.file_id,
        created_at=row.created_at,
    )


def frame_purpose(file_id: str) -> str:
    """What a frame is sealed for."""
    return f"frame {file_id}"


class Unreadable(Unavailable):
    """A subject's data cannot be opened; those of others can, and the database answers."""


def unreadable() -> Unreadable:
    """What to raise of sealed rows that cannot be opened; the log says why."""
    return Unreadable(
        "The subject's data cannot be opened: a key is missing. Tell the operator.", retry_after=60
    )


def _purpose(template_id: str, embedder: str) -> str:
    return f"template {template_id} {embedder}"
