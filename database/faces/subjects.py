"""Subjects: adding, reading, changing and completely erasing them."""

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, and_, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from contracts.audit import Action
from contracts.errors import SubjectExists
from contracts.faces.subjects import (
    ErasedCounts,
    NewSubject,
    Subject,
    SubjectChange,
    TemplateCounts,
)
from contracts.names import composed
from contracts.pages import Page
from database.audit import COMMAND, Actor, record
from database.crypto.envelope import DecryptionError, EnvelopeCipher, key_id_of
from database.engine import reading, writing
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import add_erased
from database.faces.privacy.erasures import Erasures, begin, delete_traces, require_unfinished
from database.faces.standings import consent_of
from database.faces.template_rows import NO_REVISION, data_key_of, find_subject, increment_revision
from database.idempotency import IdempotencyKey, StoredResponse, lookup, remember
from database.jobs.queries import delete_jobs
from database.paging import decode_time_and_id, encode_cursor, require_limit
from database.tables import FaceDeviceRecord, FaceFileRecord, FaceTemplateRecord, SubjectRecord


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased from the database.

    Attributes:
        jobs: Ids of the subject's deleted enrollment jobs, whose files the caller deletes.
    """

    counts: ErasedCounts
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reencrypted:
    """What `Subjects.reencrypt` has done.

    Attributes:
        count: Of data keys that were encrypted.
        damaged: The subjects whose data keys cannot be decrypted.
        last: The last subject that was looked at; None if none is left.
    """

    count: int
    damaged: tuple[str, ...]
    last: str | None


class Subjects:
    """The table of subjects. Raises `Unavailable` if the database does not answer.

    Methods with a parameter `embedder` count templates of that embedder as current; None counts
    all templates as current.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], datetime],
        cipher: EnvelopeCipher,
        files: FaceFiles,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._cipher = cipher
        self._files = files

    def create(self, new: NewSubject, *, key: IdempotencyKey | None = None) -> dict[str, Any]:
        """Add a subject.

        Returns:
            A `Subject` as JSON; with a `key` that was used before, the first response.

        Raises:
            SubjectExists: Another subject has that external id.
            ValidationFailed: Its consent is of the future, or has expired.
            IdempotencyConflict: The key was used for a different request.
        """
        try:
            return self._create(new, key)
        except IntegrityError:
            # Another process wrote the same external id or key after we had looked for it.
            return self._create(new, key)

    def get(self, subject_id: str, *, embedder: str | None = None) -> Subject:
        """Return one subject.

        Raises:
            SubjectNotFound: There is no such subject.
        """
        with reading(self._engine) as session:
            return _subjects(session, [find_subject(session, subject_id)], embedder)[0]

    def require_readable(self, subject_id: str) -> None:
        """Check that the subject's data can be decrypted.

        Raises:
            SubjectNotFound: There is no such subject.
            Unreadable: Its master key is missing.
        """
        with reading(self._engine) as session:
            subject = find_subject(session, subject_id)
        data_key_of(self._cipher, subject)

    def list(
        self,
        *,
        embedder: str | None = None,
        external_id: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Subject]:
        """A page of subjects, newest first. Subjects added later do not shift the pages.

        Raises:
            ValidationFailed: The cursor is invalid, or the limit not in 1 to 200.
        """
        require_limit(limit)
        row = SubjectRecord
        query = select(row).order_by(row.created_at.desc(), row.id.desc())
        if external_id is not None:
            # Earlier releases stored them as they were sent.
            query = query.where(row.external_id.in_({external_id, composed(external_id)}))
        if cursor is not None:
            created_at, subject_id = decode_time_and_id(cursor)
            same_time = and_(row.created_at == created_at, row.id < subject_id)
            query = query.where(or_(row.created_at < created_at, same_time))
        with reading(self._engine) as session:
            rows = session.scalars(query.limit(limit + 1)).all()
            items = _subjects(session, rows[:limit], embedder)
        last = items[-1] if len(rows) > limit else None
        next_cursor = encode_cursor(last.created_at.isoformat(), last.id) if last else None
        return Page(items=items, next_cursor=next_cursor)

    def change(
        self,
        subject_id: str,
        change: SubjectChange,
        *,
        embedder: str | None = None,
        actor: Actor = COMMAND,
    ) -> Subject:
        """Change a subject; deletes its frames if they may no longer be stored.

        The audit log has who changed a consent or `keep_frames`, or enabled or
        disabled a face.

        Raises:
            SubjectNotFound: There is no such subject.
            SubjectExists: Another subject has that external id.
            ValidationFailed: Its consent is of the future, or has expired.
        """
        try:
            return self._change(subject_id, change, embedder, actor)
        except IntegrityError:
            return self._change(subject_id, change, embedder, actor)

    def erase(self, subject_id: str) -> Erasure:
        """Delete a subject, its data key and everything stored about it.

        The erasure has to be finished (`database.faces.privacy.erasures`), and may be repeated
        until then.

        Raises:
            SubjectNotFound: There is no such subject and no unfinished erasure of it.
            DiskUnusable: Its frames cannot be deleted from the disk.
        """
        return erase(self._engine, self._files, subject_id, self._clock())

    def with_traces(self, ids: Collection[str]) -> set[str]:
        """Those of some erased subjects of whom tables or the disk have something; only reads."""
        found = Erasures(self._engine, self._clock).with_traces(ids)
        return found | self._files.existing_among(ids)

    def erase_traces(self, subject_id: str) -> tuple[str, ...]:
        """Delete what was written about a subject during its erasure; returns its job ids."""
        with writing(self._engine) as session:
            jobs = delete_traces(session, subject_id, self._clock())
        add_erased(self._files.root.parent, [subject_id])  # unless it was killed before that
        self._files.remove_all(subject_id)
        return jobs

    def delete_jobs(self, ids: Collection[str]) -> None:
        """Delete the rows of an erased subject's jobs, once their files are deleted."""
        with writing(self._engine) as session:
            delete_jobs(session, ids)

    def reencrypt(self, *, after: str = "", limit: int) -> Reencrypted:
        """Encrypt some data keys with the first master key, in the order of the subjects' ids.

        Args:
            after: The last subject of the step before.
            limit: How many.
        """
        row, key_id = SubjectRecord, self._cipher.key_id
        query = select(row).where(row.key_id != key_id, row.id > after).order_by(row.id)
        damaged: list[str] = []
        with writing(self._engine) as session:
            rows = session.scalars(query.limit(limit).with_for_update()).all()
            for found in rows:
                try:
                    found.data_key = self._cipher.reencrypt_data_key(found.data_key, found.id)
                except DecryptionError:
                    damaged.append(found.id)
                else:
                    found.key_id = key_id_of(found.data_key)
        last = rows[-1].id if rows else None
        return Reencrypted(len(rows) - len(damaged), tuple(damaged), last)

    def encrypted_by(self, key_ids: Collection[str]) -> Sequence[tuple[str, str]]:
        """The id and name of each subject whose data key one of these master keys encrypts."""
        row = SubjectRecord
        query = select(row.id, row.name).where(row.key_id.in_(key_ids)).order_by(row.id)
        with reading(self._engine) as session:
            return [(subject_id, name) for subject_id, name in session.execute(query)]

    def _create(self, new: NewSubject, key: IdempotencyKey | None) -> dict[str, Any]:
        now = self._clock()
        with writing(self._engine) as session:
            if key and (earlier := lookup(session, key, now)):
                return earlier.body
            _require_unused(session, new.external_id)
            row = self._row(new, now)
            session.add(row)
            session.flush()
            body = _subjects(session, [row], None)[0].model_dump(mode="json")
            if key:
                remember(session, key, StoredResponse(201, body), now)
        return body

    def _row(self, new: NewSubject, now: datetime) -> SubjectRecord:
        subject_id = f"sub_{secrets.token_urlsafe(15)}"
        data_key, _ = self._cipher.new_data_key(subject_id)
        return SubjectRecord(
            id=subject_id,
            name=new.name,
            external_id=new.external_id,
            details=new.metadata,
            keep_frames=new.keep_frames,
            data_key=data_key,
            key_id=key_id_of(data_key),  # not self._cipher.key_id: that may have changed since
            revision=NO_REVISION,
            created_at=now,
            updated_at=now,
            consent=new.consent and new.consent.given(now).model_dump(mode="json"),
        )

    def _change(
        self, subject_id: str, change: SubjectChange, embedder: str | None, actor: Actor
    ) -> Subject:
        values = _changed_columns(change, self._clock())
        with writing(self._engine) as session:
            row = find_subject(session, subject_id, locked=True)
            if values.get("external_id") != row.external_id:
                _require_unused(session, values.get("external_id"))
            for name, value in values.items():
                setattr(row, name, value)
            row.updated_at = self._clock()
            for action in _audited(change):
                record(session, actor, action, subject_id, row.updated_at)
            files = [] if row.keep_frames else _delete_frames(session, subject_id)
            session.flush()
            subject = _subjects(session, [row], embedder)[0]
        self._files.remove(subject_id, files)
        return subject


def _changed_columns(change: SubjectChange, now: datetime) -> dict[str, Any]:
    """The columns of `SubjectRecord` that a change sets."""
    values = change.model_dump(include=change.model_fields_set)
    if "metadata" in values:
        values["details"] = values.pop("metadata")
    if "consent" in values:
        consent = change.consent
        values["consent"] = consent and consent.given(now).model_dump(mode="json")
    if "face_disabled" in values:
        values["face_disabled_at"] = now if values.pop("face_disabled") else None
        values["failures"] = 0
    return values


def _audited(change: SubjectChange) -> Iterator[Action]:
    """What of a change the audit log keeps."""
    if "consent" in change.model_fields_set:
        yield "consent_recorded" if change.consent else "consent_withdrawn"
    if "face_disabled" in change.model_fields_set:
        yield "face_disabled" if change.face_disabled else "face_enabled"
    if "keep_frames" in change.model_fields_set:
        yield "frames_allowed" if change.keep_frames else "frames_forbidden"


def _require_unused(session: Session, external_id: str | None) -> None:
    if external_id is None:
        return
    query = select(SubjectRecord.id).where(SubjectRecord.external_id == external_id)
    if (other := session.scalars(query).first()) is not None:
        raise SubjectExists(f"The subject {other} has that external_id. Use it, or another id.")


def _delete_frames(session: Session, subject_id: str) -> Sequence[str]:
    session.execute(
        update(FaceTemplateRecord)
        .where(FaceTemplateRecord.subject_id == subject_id)
        .values(file_id=None)
    )
    deletion = delete(FaceFileRecord).where(FaceFileRecord.subject_id == subject_id)
    return session.scalars(deletion.returning(FaceFileRecord.id)).all()


def _delete(session: Session, subject: SubjectRecord) -> ErasedCounts:
    """Delete the row and all rows that refer to it."""
    counts = ErasedCounts(
        templates=_count(session, FaceTemplateRecord, subject.id),
        files=_count(session, FaceFileRecord, subject.id),
    )
    # Explicit, so that it works on any database without relying on the cascade.
    for table in (FaceTemplateRecord, FaceFileRecord, FaceDeviceRecord):
        session.execute(delete(table).where(table.subject_id == subject.id))
    session.delete(subject)
    if subject.revision != NO_REVISION:
        increment_revision(session)
    return counts


def _count(session: Session, table: Any, subject_id: str) -> int:
    query = select(func.count()).select_from(table).where(table.subject_id == subject_id)
    return session.scalars(query).one()


def erase(engine: Engine, files: FaceFiles, subject_id: str, now: datetime) -> Erasure:
    """See `Subjects.erase`; needs no master key."""
    with writing(engine) as session:
        subject = session.get(SubjectRecord, subject_id, with_for_update=True)
        if subject is None:
            require_unfinished(session, subject_id)
            counts = ErasedCounts(templates=0, files=0)
        else:
            counts = _delete(session, subject)
            begin(session, subject_id, now)
        jobs = delete_traces(session, subject_id, now)
    add_erased(files.root.parent, [subject_id])
    files.remove_all(subject_id)
    return Erasure(counts, jobs)


def _subjects(
    session: Session, rows: Sequence[SubjectRecord], embedder: str | None
) -> list[Subject]:
    """Convert rows, in the same order, with two queries for all of them."""
    ids = [row.id for row in rows]
    template, file = FaceTemplateRecord, FaceFileRecord
    templates: dict[str, list[int]] = {subject_id: [0, 0] for subject_id in ids}
    query = (
        select(template.subject_id, template.embedder, func.count())
        .where(template.subject_id.in_(ids))
        .group_by(template.subject_id, template.embedder)
    )
    for subject_id, template_embedder, count in session.execute(query):
        is_stale = embedder is not None and template_embedder != embedder
        templates[subject_id][is_stale] += count
    stored = select(file.subject_id, func.count()).where(file.subject_id.in_(ids))
    files = dict(session.execute(stored.group_by(file.subject_id)).all())
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
        consent=consent_of(row),
        face_disabled=row.face_disabled_at is not None,
        last_used_at=row.last_used_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
