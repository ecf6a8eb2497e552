"""Subjects: added, found, changed, and erased so that nothing of them is left."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, and_, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.errors import SubjectExists
from contracts.faces.subjects import (
    ErasedCounts,
    NewSubject,
    Subject,
    SubjectChange,
    TemplateCounts,
)
from contracts.pages import Page
from database.crypto.envelope import Sealer, key_id_of
from database.engine import reading, writing
from database.faces.erasures import begin, forget_traces, require_unfinished
from database.faces.face_files import FaceFiles
from database.faces.template_rows import find, raise_revision
from database.idempotency import Answer, IdempotencyKey, lookup, remember
from database.paging import cursor_of, moment_and_id, require_limit
from database.tables import (
    FaceFileRecord,
    FaceTemplateRecord,
    SubjectRecord,
)

_NEVER = 0  # revision of a subject that has no templates yet


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased from the database.

    Attributes:
        counts: For the client.
        jobs: The subject's enrollments, whose rows are gone; their files are the caller's.
    """

    counts: ErasedCounts
    jobs: tuple[str, ...]


class Subjects:
    """The table of subjects. Unavailable without a database.

    Where `embedder` is asked for, templates of it count as current; with None, all do.

    Args:
        engine: The database.
        clock: What time it is.
        sealer: The master keys.
        files: The frames on the disk.
    """

    def __init__(
        self, engine: Engine, clock: Callable[[], datetime], sealer: Sealer, files: FaceFiles
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._sealer = sealer
        self._files = files

    def create(self, new: NewSubject, *, asked: IdempotencyKey | None = None) -> dict[str, Any]:
        """Add a subject.

        Args:
            new: Who it is.
            asked: The Idempotency-Key of the request.

        Returns:
            A `Subject` as JSON: the first answer where `asked` was asked before.

        Raises:
            SubjectExists: Another has that external id.
            IdempotencyConflict: The key was used for another request.
        """
        try:
            return self._create(new, asked)
        except IntegrityError:
            # Another process wrote the same external id or key between our look and our write.
            return self._create(new, asked)

    def get(self, subject_id: str, *, embedder: str | None = None) -> Subject:
        """One subject.

        Raises:
            SubjectNotFound: There is none of that id.
        """
        with reading(self._engine) as session:
            return _told(session, [find(session, subject_id)], embedder)[0]

    def names(self, ids: Sequence[str]) -> dict[str, str]:
        """The names of those subjects that there are."""
        query = select(SubjectRecord.id, SubjectRecord.name).where(SubjectRecord.id.in_(ids))
        with reading(self._engine) as session:
            return dict(session.execute(query).all())

    def list(
        self,
        *,
        embedder: str | None = None,
        external_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Subject]:
        """Some subjects, newest first. Ones added meanwhile do not shift the pages.

        Raises:
            ValidationFailed: The cursor is none of ours, or the limit not in 1 to 200.
        """
        require_limit(limit)
        row = SubjectRecord
        query = select(row).order_by(row.created_at.desc(), row.id.desc())
        if external_id is not None:
            query = query.where(row.external_id == external_id)
        if cursor is not None:
            made, subject_id = moment_and_id(cursor)
            same_time = and_(row.created_at == made, row.id < subject_id)
            query = query.where(or_(row.created_at < made, same_time))
        with reading(self._engine) as session:
            rows = session.scalars(query.limit(limit + 1)).all()
            items = _told(session, rows[:limit], embedder)
        last = items[-1] if len(rows) > limit else None
        following = cursor_of(last.created_at.isoformat(), last.id) if last else None
        return Page(items=items, next_cursor=following)

    def change(
        self, subject_id: str, change: SubjectChange, *, embedder: str | None = None
    ) -> Subject:
        """Change what is said of a subject; frames are removed if they are kept no longer.

        Raises:
            SubjectNotFound: There is none of that id.
            SubjectExists: Another has that external id.
        """
        try:
            return self._change(subject_id, change, embedder)
        except IntegrityError:
            return self._change(subject_id, change, embedder)

    def erase(self, subject_id: str) -> Erasure:
        """Remove a subject with all that is kept of it; what was sealed for it opens never again.

        It has to be finished (`database.faces.erasures`), and may be done again until then.

        Raises:
            SubjectNotFound: There is none of that id, nor an erasure of it that is unfinished.
        """
        with writing(self._engine) as session:
            subject = session.get(SubjectRecord, subject_id, with_for_update=True)
            if subject is None:
                require_unfinished(session, subject_id)
                counts = ErasedCounts(templates=0, files=0)
            else:
                counts = _delete(session, subject)
                begin(session, subject_id, self._clock())
            jobs = forget_traces(session, subject_id)
        self._files.remove_all(subject_id)
        return Erasure(counts, jobs)

    def erase_traces(self, subject_id: str) -> tuple[str, ...]:
        """Remove what was written of a subject while it was erased; the ids of its jobs."""
        with writing(self._engine) as session:
            jobs = forget_traces(session, subject_id)
        self._files.remove_all(subject_id)
        return jobs

    def reseal(self, *, most: int) -> int:
        """Seal data keys by the first master key that are sealed by another; how many.

        Raises:
            SealError: One of the others is not here.
        """
        key_id = self._sealer.key_id
        query = select(SubjectRecord).where(SubjectRecord.key_id != key_id).limit(most)
        with writing(self._engine) as session:
            rows = session.scalars(query.with_for_update()).all()
            for row in rows:
                row.data_key = self._sealer.reseal_data_key(row.data_key, row.id)
                row.key_id = key_id_of(row.data_key)
        return len(rows)

    def _create(self, new: NewSubject, asked: IdempotencyKey | None) -> dict[str, Any]:
        now = self._clock()
        with writing(self._engine) as session:
            if asked and (earlier := lookup(session, asked, now)):
                return earlier.body
            _require_free(session, new.external_id)
            row = self._row(new, now)
            session.add(row)
            session.flush()
            body = _told(session, [row], None)[0].model_dump(mode="json")
            if asked:
                remember(session, asked, Answer(201, body), now)
        return body

    def _row(self, new: NewSubject, now: datetime) -> SubjectRecord:
        subject_id = f"sub_{secrets.token_urlsafe(15)}"
        sealed, _ = self._sealer.new_data_key(subject_id)
        return SubjectRecord(
            id=subject_id,
            name=new.name,
            external_id=new.external_id,
            details=new.metadata,
            keep_frames=new.keep_frames,
            data_key=sealed,
            key_id=key_id_of(sealed),  # a newer one may have come meanwhile
            revision=_NEVER,
            created_at=now,
            updated_at=now,
        )

    def _change(self, subject_id: str, change: SubjectChange, embedder: str | None) -> Subject:
        sent = change.model_dump(include=change.model_fields_set)
        with writing(self._engine) as session:
            row = find(session, subject_id, locked=True)
            if sent.get("external_id") != row.external_id:
                _require_free(session, sent.get("external_id"))
            if "metadata" in sent:
                sent["details"] = sent.pop("metadata")
            for name, value in sent.items():
                setattr(row, name, value)
            row.updated_at = self._clock()
            files = [] if row.keep_frames else _forget_frames(session, subject_id)
            session.flush()
            told = _told(session, [row], embedder)[0]
        self._files.remove(subject_id, files)
        return told


def _require_free(session: Session, external_id: str | None) -> None:
    if external_id is None:
        return
    query = select(SubjectRecord.id).where(SubjectRecord.external_id == external_id)
    if (other := session.scalars(query).first()) is not None:
        raise SubjectExists(f"The subject {other} has that external_id. Use it, or another id.")


def _forget_frames(session: Session, subject_id: str) -> Sequence[str]:
    session.execute(
        update(FaceTemplateRecord)
        .where(FaceTemplateRecord.subject_id == subject_id)
        .values(file_id=None)
    )
    gone = delete(FaceFileRecord).where(FaceFileRecord.subject_id == subject_id)
    return session.scalars(gone.returning(FaceFileRecord.id)).all()


def _delete(session: Session, subject: SubjectRecord) -> ErasedCounts:
    """Delete the row and all that hangs on it."""
    counts = ErasedCounts(
        templates=_count(session, FaceTemplateRecord, subject.id),
        files=_count(session, FaceFileRecord, subject.id),
    )
    # Named, and not left to the cascade, so that it holds on any database.
    for table in (FaceTemplateRecord, FaceFileRecord):
        session.execute(delete(table).where(table.subject_id == subject.id))
    session.delete(subject)
    raise_revision(session)
    return counts


def _count(session: Session, table: Any, subject_id: str) -> int:
    query = select(func.count()).select_from(table).where(table.subject_id == subject_id)
    return session.scalars(query).one()


def _told(session: Session, rows: Sequence[SubjectRecord], embedder: str | None) -> list[Subject]:
    """The rows as clients see them, in the same order, in two queries for all."""
    ids = [row.id for row in rows]
    template, file = FaceTemplateRecord, FaceFileRecord
    templates: dict[str, list[int]] = {one: [0, 0] for one in ids}
    query = (
        select(template.subject_id, template.embedder, func.count())
        .where(template.subject_id.in_(ids))
        .group_by(template.subject_id, template.embedder)
    )
    for subject_id, made_by, count in session.execute(query):
        templates[subject_id][embedder is not None and made_by != embedder] += count
    kept = select(file.subject_id, func.count()).where(file.subject_id.in_(ids))
    files = dict(session.execute(kept.group_by(file.subject_id)).all())
    return [_subject(row, templates[row.id], files.get(row.id, 0)) for row in rows]


def _subject(row: SubjectRecord, templates: Sequence[int], files: int) -> Subject:
    return Subject(
        id=row.id,
        name=row.name,
        external_id=row.external_id,
        metadata=row.details,
        keep_frames=row.keep_frames,
        templates=TemplateCounts(current=templates[0], stale=templates[1]),
        files=files,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
