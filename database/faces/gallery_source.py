"""What a search among all templates is fed with: what changed, since it was last asked."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import structlog
from sqlalchemy import Engine, Select, select

from contracts.faces.subjects import LENGTH
from contracts.queue.messages import Vector
from database.crypto.envelope import Sealer, SealError
from database.engine import reading
from database.faces.template_rows import opened_vector
from database.tables import FaceGalleryRecord, FaceTemplateRecord, SubjectRecord

log = structlog.get_logger()

EVERYTHING = -1
"""In place of a revision: before all that ever was."""
_ROWS_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to the templates of one embedder since a revision.

    Attributes:
        revision: The one that this leads to.
        subjects: The vectors of each subject that changed, (n, 128) float32; n may be 0. A subject
            that was erased is not told here, see `GallerySource.subjects`.
    """

    revision: int
    subjects: dict[str, Vector]


class GallerySource:
    """All templates, as a search needs them. Unavailable without a database.

    Args:
        engine: The database.
        sealer: The master keys.
    """

    def __init__(self, engine: Engine, sealer: Sealer) -> None:
        self._engine = engine
        self._sealer = sealer

    def revision(self) -> int:
        """The number that every change raises; one cheap query."""
        with reading(self._engine) as session:
            return session.scalar(select(FaceGalleryRecord.revision)) or 0

    def changes(self, since: int, *, embedder: str) -> Changes:
        """The subjects whose templates changed after a revision, with all their templates.

        Templates that cannot be opened are left out, and logged.

        Args:
            since: A revision, or `EVERYTHING`.
            embedder: Templates of others are not told.
        """
        with reading(self._engine) as session:
            # First: what is written after this is told again next time, and never missed.
            revision = session.scalar(select(FaceGalleryRecord.revision)) or 0
            rows = session.execute(_changed(since, embedder))
            subjects = {
                subject_id: self._opened(subject_id, data_key, some, embedder)
                for (subject_id, data_key), some in groupby(rows, lambda row: (row[0], row[1]))
            }
        return Changes(revision, subjects)

    def subjects(self, *, embedder: str) -> set[str]:
        """The ids of all subjects that have templates of that embedder."""
        row = FaceTemplateRecord
        query = select(row.subject_id).where(row.embedder == embedder).distinct()
        with reading(self._engine) as session:
            return set(session.scalars(query))

    def _opened(
        self, subject_id: str, data_key: bytes, rows: Iterable[Any], embedder: str
    ) -> Vector:
        vectors = []
        try:
            key = self._sealer.open_data_key(data_key, subject_id)
            for _, _, template_id, sealed in rows:
                if template_id is not None:  # None: it has no template of this embedder
                    vectors.append(opened_vector(key, sealed, template_id, embedder))
        except SealError as error:
            log.warning("templates_unreadable", subject=subject_id, why=str(error))
        return np.stack(vectors) if vectors else np.empty((0, LENGTH), np.float32)


def _changed(since: int, embedder: str) -> Select[str, bytes, str, bytes]:
    subject, template = SubjectRecord, FaceTemplateRecord
    mine = (template.subject_id == subject.id) & (template.embedder == embedder)
    return (
        select(subject.id, subject.data_key, template.id, template.sealed)
        .join(template, mine, isouter=True)
        .where(subject.revision > since)
        .order_by(subject.id, template.created_at, template.id)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
