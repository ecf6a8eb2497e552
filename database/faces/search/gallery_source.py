"""Feeds a search among all templates: which subjects changed, and their vectors."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import structlog
from sqlalchemy import ColumnElement, Engine, Select, func, select

from contracts.faces.subjects import EMBEDDING_SIZE
from contracts.queue.messages import Vector
from database.crypto.envelope import DecryptionError, EnvelopeCipher
from database.engine import reading
from database.faces.template_rows import NO_REVISION, decrypt_vector
from database.tables import FaceGalleryRecord, FaceTemplateRecord, SubjectRecord

log = structlog.get_logger()

EVERYTHING = -1
"""Stands for a revision before the first one."""
_ROWS_PER_FETCH = 2000
_PRIME = 2_147_483_647  # so that the sum of four billion subjects fits into 64 bits


def checksum_of(revisions: Mapping[str, int]) -> tuple[int, int]:
    """A number of subjects and a checksum of their revisions, which are random."""
    return len(revisions), sum(revision % _PRIME for revision in revisions.values())


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one embedder's templates since a revision.

    Attributes:
        revision: The revision that the changes lead to.
        subjects: All vectors of each subject that changed, (n, 128) float32; n may be 0. Erased
            subjects are not included.
    """

    revision: int
    subjects: dict[str, Vector]


class GallerySource:
    """All templates, as a search needs them. Raises `Unavailable` without a database."""

    def __init__(self, engine: Engine, cipher: EnvelopeCipher) -> None:
        self._engine = engine
        self._cipher = cipher

    def revision(self) -> int:
        """The number that every change increases; one cheap query."""
        with reading(self._engine) as session:
            return session.scalar(select(FaceGalleryRecord.revision)) or 0

    def changes(self, since: int, *, embedder: str) -> Changes:
        """All templates of the subjects whose templates changed after a revision.

        The caller keeps the revision in the same database: after a failover, a larger one than that
        of a process may be of a change that was made instead of it.

        Templates that cannot be decrypted are left out and logged.

        Args:
            since: A revision, or `EVERYTHING`.
            embedder: Only templates of this embedder are included.
        """
        return Changes(*self._read(SubjectRecord.revision > since, embedder))

    def revisions(self, after: int = NO_REVISION) -> dict[str, int]:
        """The revision of each subject that ever had a template, by id; only later ones.

        A subject with an equal one has the same templates, also in another database that lacked the
        last changes when they were made.
        """
        row = SubjectRecord
        query = select(row.id, row.revision).where(row.revision > after)
        with reading(self._engine) as session:
            return {found.id: found.revision for found in session.execute(query)}

    def checksum(self) -> tuple[int, int]:
        """What `checksum_of` makes of all `revisions`, but computed by the database."""
        revision = SubjectRecord.revision
        query = select(func.count(), func.coalesce(func.sum(revision % _PRIME), 0))
        with reading(self._engine) as session:
            count, total = session.execute(query.where(revision > NO_REVISION)).one()
        return int(count), int(total)

    def vectors(
        self, subject_ids: Collection[str] | None = None, *, embedder: str
    ) -> dict[str, Vector]:
        """All vectors of some subjects, at most a thousand, or of all subjects.

        Templates that cannot be decrypted are left out and logged.

        Returns:
            By subject, (n, 128) float32; n may be 0. Subjects that do not exist are left out.
        """
        row = SubjectRecord
        which = row.revision > NO_REVISION if subject_ids is None else row.id.in_(subject_ids)
        return self._read(which, embedder)[1]

    def _read(self, which: ColumnElement[bool], embedder: str) -> tuple[int, dict[str, Vector]]:
        """The gallery's revision, and the vectors of the selected subjects."""
        with reading(self._engine) as session:
            # Read first: a later change is then reported twice rather than missed.
            revision = session.scalar(select(FaceGalleryRecord.revision)) or 0
            rows = session.execute(_rows(which, embedder))
            return revision, {
                subject_id: self._decrypt(subject_id, data_key, group, embedder)
                for (subject_id, data_key), group in groupby(rows, lambda row: (row[0], row[1]))
            }

    def _decrypt(
        self, subject_id: str, data_key: bytes, rows: Iterable[Any], embedder: str
    ) -> Vector:
        vectors = []
        try:
            key = self._cipher.decrypt_data_key(data_key, subject_id)
        except DecryptionError as error:
            log.warning("templates_unreadable", subject=subject_id, why=str(error))
            rows = ()
        for _, _, template_id, encrypted in rows:
            if template_id is None:  # the subject has no template of this embedder
                continue
            try:
                vectors.append(decrypt_vector(key, encrypted, template_id, embedder))
            except DecryptionError as error:
                log.warning("template_unreadable", subject=subject_id, why=str(error))
        return np.stack(vectors) if vectors else np.empty((0, EMBEDDING_SIZE), np.float32)


def _rows(which: ColumnElement[bool], embedder: str) -> Select[str, bytes, str, bytes]:
    subject, template = SubjectRecord, FaceTemplateRecord
    of_subject = (template.subject_id == subject.id) & (template.embedder == embedder)
    return (
        select(subject.id, subject.data_key, template.id, template.sealed)
        .join(template, of_subject, isouter=True)
        .where(which)
        .order_by(subject.id, template.created_at, template.id)
        .execution_options(yield_per=_ROWS_PER_FETCH)
    )
