"""Templates, the encrypted embeddings of subjects' faces, and the frames stored with them.

Every change increments a revision in the same transaction. By reading it, a process that searches
among the templates learns with one small query whether its copy is current.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import structlog
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from contracts.errors import Conflict, OpsinError
from contracts.faces.consent import Policy
from contracts.faces.faces import Quality
from contracts.faces.subjects import MAX_TEMPLATES, NewTemplate, StoredFrame, Template
from contracts.queue.messages import Vector
from database.crypto.envelope import DataKey, EnvelopeCipher
from database.engine import advisory_lock, reading, writing
from database.faces.face_files import FaceFiles
from database.faces.standings import has_consent, standing_of, touch
from database.faces.template_rows import (
    Damaged,
    damaged_error,
    data_key_of,
    delete_templates,
    encrypt_vector,
    find_subject,
    frame_purpose,
    increment_revision,
    template_of,
)
from database.tables import FaceFileRecord, FaceTemplateRecord, SubjectRecord

_LOCK = 0x0951_0005  # see `database.engine.advisory_lock`

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StaleTemplate:
    """A template of an earlier embedder whose frame is stored."""

    subject_id: str
    template_id: str
    file_id: str


class Templates:
    """The table of templates. Raises `Unavailable` if the database does not answer."""

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

    def add(
        self,
        subject_id: str,
        templates: Sequence[NewTemplate],
        *,
        embedder: str,
        replacing: Collection[str] = (),
        final_check: Callable[[], None] | None = None,
    ) -> list[str]:
        """Store templates, all or none; their frames only if the subject has `keep_frames`.

        Args:
            embedder: See `contracts.faces.subjects.embedder_of`.
            replacing: Ids of the subject's templates to delete in the same transaction.
            final_check: Called under a lock that keeps every other caller with a `final_check` from
                writing; it may read the database, and raise.

        Returns:
            The ids of the templates, in order.

        Raises:
            SubjectNotFound: There is no such subject, or it was erased in the meantime.
            Conflict: It would have more than `MAX_TEMPLATES` of that embedder.
            Unavailable: Its key is missing, or frames cannot be written to disk.
        """
        with reading(self._engine) as session:
            subject = find_subject(session, subject_id)
        key = data_key_of(self._cipher, subject)
        rows = [self._row(subject_id, template, embedder, key) for template in templates]
        frames: list[FaceFileRecord] = []
        try:
            if subject.keep_frames:
                frames = self._store_frames(subject_id, templates, rows, key)
            with writing(self._engine) as session:
                if final_check is not None:
                    advisory_lock(session.connection(), _LOCK)
                    # What is taken back from now on waits until the templates are stored.
                    find_subject(session, subject_id, locked=True)
                    final_check()
                unused_files = self._insert(session, subject_id, rows, frames, replacing)
        except BaseException as error:
            if isinstance(error, OpsinError) and error.is_outcome_unknown:
                raise  # `Frames.remove_orphans` removes the frames if they have no rows
            written = {row.file_id for row in rows if row.file_id} | {row.id for row in frames}
            self._files.remove(subject_id, written)
            raise
        self._files.remove(subject_id, unused_files)
        return [row.id for row in rows]

    def of_subject(self, subject_id: str, *, embedder: str) -> list[Template]:
        """The templates of a subject and an embedder, oldest first, without damaged ones.

        Raises:
            SubjectNotFound: There is no such subject.
            Unavailable: Its key is missing, or all of them are damaged.
        """
        templates, damaged = self.readable(subject_id, embedder=embedder)
        if damaged and not templates:
            raise damaged_error(f"embedding {damaged[0]}")
        if damaged:
            log.warning("templates_unreadable", subject=subject_id, templates=damaged)
        return templates

    def readable(self, subject_id: str, *, embedder: str) -> tuple[list[Template], list[str]]:
        """The templates of a subject and an embedder, oldest first, and the ids of damaged ones.

        Raises:
            SubjectNotFound: There is no such subject.
            Unavailable: Its key is missing.
        """
        row = FaceTemplateRecord
        query = (
            select(row)
            .where(row.subject_id == subject_id, row.embedder == embedder)
            .order_by(row.created_at, row.id)
        )
        with reading(self._engine) as session:
            subject = find_subject(session, subject_id)
            rows = session.scalars(query).all()
        key = data_key_of(self._cipher, subject)
        templates, damaged = list[Template](), list[str]()
        for one in rows:
            try:
                templates.append(template_of(one, key))
            except Damaged:
                damaged.append(one.id)
        return templates, damaged

    def embedders(self) -> set[str]:
        """The embedders that any template was computed by."""
        with reading(self._engine) as session:
            return set(session.scalars(select(FaceTemplateRecord.embedder).distinct()))

    def remove(self, subject_id: str, ids: Collection[str]) -> int:
        """Delete some templates and their frames; returns how many existed.

        Raises:
            SubjectNotFound: There is no such subject.
        """
        with writing(self._engine) as session:
            subject = find_subject(session, subject_id, locked=True)
            files, count = delete_templates(session, subject_id, ids)
            subject.revision = increment_revision(session)
        self._files.remove(subject_id, files)
        return count

    def stale(
        self, *, embedder: str, limit: int, policy: Policy | None = None
    ) -> list[StaleTemplate]:
        """Templates of other embedders whose frames are stored, oldest first.

        Args:
            embedder: The current embedder.
            limit: How many.
            policy: In force; those of people whose faces it does not allow to use are left out.
        """
        row, subject = FaceTemplateRecord, SubjectRecord
        query = (
            select(row.subject_id, row.id, row.file_id, subject)
            .join(subject, subject.id == row.subject_id)
            .where(row.embedder != embedder, row.file_id.is_not(None))
            .order_by(row.created_at, row.id)
            .execution_options(yield_per=100)
        )
        if policy and policy.consent_required:
            query = query.where(subject.consent.is_not(None))
        with reading(self._engine) as session:
            stale = (
                StaleTemplate(subject_id, template_id, file_id)
                for subject_id, template_id, file_id, person in session.execute(query)
                if file_id and (policy is None or has_consent(standing_of(person), policy))
            )
            return list(islice(stale, limit))

    def update(
        self, stale: StaleTemplate, vector: Vector, quality: Quality, *, embedder: str
    ) -> bool:
        """Replace the embedding of a template; False if it was deleted in the meantime.

        Raises:
            Unavailable: The subject's key is missing.
        """
        with writing(self._engine) as session:
            subject = session.get(SubjectRecord, stale.subject_id, with_for_update=True)
            row = session.get(FaceTemplateRecord, stale.template_id)
            if subject is None or row is None or row.subject_id != subject.id:
                return False
            key = data_key_of(self._cipher, subject)
            row.sealed = encrypt_vector(key, vector, row.id, embedder)
            row.embedder, row.quality = embedder, quality.model_dump(mode="json")
            subject.revision = increment_revision(session)
        return True

    def _row(
        self, subject_id: str, new: NewTemplate, embedder: str, key: DataKey
    ) -> FaceTemplateRecord:
        template_id = new.id or f"tpl_{secrets.token_urlsafe(12)}"
        return FaceTemplateRecord(
            id=template_id,
            subject_id=subject_id,
            embedder=embedder,
            sealed=encrypt_vector(key, new.vector, template_id, embedder),
            source=new.source,
            quality=new.quality.model_dump(mode="json"),
            created_at=self._clock(),
        )

    def _store_frames(
        self,
        subject_id: str,
        templates: Sequence[NewTemplate],
        rows: Sequence[FaceTemplateRecord],
        key: DataKey,
    ) -> list[FaceFileRecord]:
        """Write the frames and reference them in the rows; equal frames are stored once."""
        stored: dict[StoredFrame, FaceFileRecord] = {}
        for new, row in zip(templates, rows, strict=True):
            if new.frame is None:
                continue
            if new.frame not in stored:
                stored[new.frame] = self._store_frame(subject_id, new.frame, key)
            row.file_id = stored[new.frame].id
        return list(stored.values())

    def _store_frame(self, subject_id: str, frame: StoredFrame, key: DataKey) -> FaceFileRecord:
        file_id = f"ff_{secrets.token_urlsafe(12)}"
        self._files.put(subject_id, file_id, key.encrypt(frame.content, frame_purpose(file_id)))
        return FaceFileRecord(
            id=file_id,
            subject_id=subject_id,
            media_type=frame.media_type,
            size=len(frame.content),
            created_at=self._clock(),
        )

    def _insert(
        self,
        session: Session,
        subject_id: str,
        rows: Sequence[FaceTemplateRecord],
        frames: Sequence[FaceFileRecord],
        replacing: Collection[str],
    ) -> list[str]:
        """Write the rows; returns the ids of the frames whose files are to be deleted.

        Those are the frames of replaced templates, and also the new ones if `keep_frames` turned
        out to be off once the subject's row was locked.
        """
        subject = find_subject(session, subject_id, locked=True)
        unused_files, _ = delete_templates(session, subject_id, replacing)
        if not subject.keep_frames:
            unused_files += [frame.id for frame in frames]
            frames = []
            for row in rows:
                row.file_id = None
        template = FaceTemplateRecord
        for embedder in {row.embedder for row in rows}:
            query = select(func.count()).where(
                template.subject_id == subject_id, template.embedder == embedder
            )
            if session.scalars(query).one() + len(rows) > MAX_TEMPLATES:
                raise Conflict(
                    f"A subject has at most {MAX_TEMPLATES} templates. Nothing was added."
                )
        session.add_all(frames)
        session.flush()
        session.add_all(rows)
        touch(subject, self._clock())
        subject.revision = increment_revision(session)
        return unused_files
