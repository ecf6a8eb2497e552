"""Templates: the embeddings of subjects' faces. They and the frames beside them are sealed.

Whatever changes them raises one number in the same transaction. By it every process that searches
among them learns, at the cost of one small query, whether what it holds is still what there is.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from contracts.errors import Conflict
from contracts.faces.faces import Quality
from contracts.faces.subjects import MOST_TEMPLATES, Frame, NewTemplate, Template
from contracts.queue.messages import Vector
from database.crypto.envelope import DataKey, Sealer, SealError
from database.engine import alone, reading, writing
from database.faces.face_files import FaceFiles
from database.faces.template_rows import (
    data_key_of,
    drop,
    find,
    frame_purpose,
    raise_revision,
    sealed_vector,
    template_of,
    unreadable,
)
from database.tables import FaceFileRecord, FaceTemplateRecord, SubjectRecord

_LOCK = 0x0951_0005  # see `database.engine.alone`


@dataclass(frozen=True, slots=True)
class Stale:
    """A template of an earlier embedder whose frame was kept."""

    subject_id: str
    template_id: str
    file_id: str


class Templates:
    """The table of templates. Unavailable without a database.

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

    def add(
        self,
        subject_id: str,
        templates: Sequence[NewTemplate],
        *,
        embedder: str,
        replacing: Collection[str] = (),
        last_look: Callable[[], None] | None = None,
    ) -> list[str]:
        """Keep templates, all or none, and their frames where the subject's record says so.

        Args:
            subject_id: Whose they are.
            templates: What is to be kept.
            embedder: What made them, see `contracts.faces.subjects.embedder_of`.
            replacing: Ids of templates of the subject that go in the same moment.
            last_look: Called when no other that brings one can write before this has; it may read
                what there is, and raise.

        Returns:
            Their ids, in order.

        Raises:
            SubjectNotFound: There is no such subject, or none any more.
            Conflict: It would have more than `MOST_TEMPLATES` of that embedder.
            Unavailable: Its key is not here, or the disk takes no frames.
        """
        with reading(self._engine) as session:
            subject = find(session, subject_id)
        key = data_key_of(self._sealer, subject)
        rows = [self._row(subject_id, one, embedder, key) for one in templates]
        kept: list[FaceFileRecord] = []
        try:
            if subject.keep_frames:
                kept = self._keep(subject_id, templates, rows, key)
            with writing(self._engine) as session:
                if last_look is not None:
                    alone(session.connection(), _LOCK)
                    last_look()
                gone = self._insert(session, subject_id, rows, kept, replacing)
        except BaseException:
            written = {row.file_id for row in rows if row.file_id} | {one.id for one in kept}
            self._files.remove(subject_id, written)
            raise
        self._files.remove(subject_id, gone)
        return [row.id for row in rows]

    def of(self, subject_id: str, *, embedder: str) -> list[Template]:
        """The templates of a subject that are of that embedder, oldest first.

        Raises:
            SubjectNotFound: There is no such subject.
            Unavailable: Its key is not here.
        """
        row = FaceTemplateRecord
        query = (
            select(row)
            .where(row.subject_id == subject_id, row.embedder == embedder)
            .order_by(row.created_at, row.id)
        )
        with reading(self._engine) as session:
            subject = find(session, subject_id)
            rows = session.scalars(query).all()
        key = data_key_of(self._sealer, subject)
        try:
            return [template_of(one, key) for one in rows]
        except SealError as error:
            raise unreadable() from error

    def remove(self, subject_id: str, ids: Collection[str]) -> int:
        """Remove some templates and the frames they were made of; how many there were.

        Raises:
            SubjectNotFound: There is no such subject.
        """
        with writing(self._engine) as session:
            subject = find(session, subject_id, locked=True)
            files, count = drop(session, subject_id, ids)
            subject.revision = raise_revision(session)
        self._files.remove(subject_id, files)
        return count

    def stale(self, *, embedder: str, most: int) -> list[Stale]:
        """Some templates of other embedders whose frames were kept, oldest first."""
        row = FaceTemplateRecord
        query = (
            select(row.subject_id, row.id, row.file_id)
            .where(row.embedder != embedder, row.file_id.is_not(None))
            .order_by(row.created_at, row.id)
            .limit(most)
        )
        with reading(self._engine) as session:
            return [
                Stale(subject, template, file)
                for subject, template, file in session.execute(query)
                if file is not None
            ]

    def renew(self, stale: Stale, vector: Vector, quality: Quality, *, embedder: str) -> bool:
        """Put another embedding in a template's place; False where it is gone meanwhile.

        Raises:
            Unavailable: The subject's key is not here.
        """
        with writing(self._engine) as session:
            subject = session.get(SubjectRecord, stale.subject_id, with_for_update=True)
            row = session.get(FaceTemplateRecord, stale.template_id)
            if subject is None or row is None or row.subject_id != subject.id:
                return False
            key = data_key_of(self._sealer, subject)
            row.sealed = sealed_vector(key, vector, row.id, embedder)
            row.embedder, row.quality = embedder, quality.model_dump(mode="json")
            subject.revision = raise_revision(session)
        return True

    def _row(
        self, subject_id: str, new: NewTemplate, embedder: str, key: DataKey
    ) -> FaceTemplateRecord:
        template_id = new.id or f"tpl_{secrets.token_urlsafe(12)}"
        return FaceTemplateRecord(
            id=template_id,
            subject_id=subject_id,
            embedder=embedder,
            sealed=sealed_vector(key, new.vector, template_id, embedder),
            source=new.source,
            quality=new.quality.model_dump(mode="json"),
            created_at=self._clock(),
        )

    def _keep(
        self,
        subject_id: str,
        templates: Sequence[NewTemplate],
        rows: Sequence[FaceTemplateRecord],
        key: DataKey,
    ) -> list[FaceFileRecord]:
        """Write the frames, and name each in its template's row; one frame is kept once."""
        kept: dict[Frame, FaceFileRecord] = {}
        for new, row in zip(templates, rows, strict=True):
            if new.frame is None:
                continue
            if new.frame not in kept:
                kept[new.frame] = self._keep_one(subject_id, new.frame, key)
            row.file_id = kept[new.frame].id
        return list(kept.values())

    def _keep_one(self, subject_id: str, frame: Frame, key: DataKey) -> FaceFileRecord:
        file_id = f"ff_{secrets.token_urlsafe(12)}"
        self._files.put(subject_id, file_id, key.seal(frame.content, frame_purpose(file_id)))
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
        kept: Sequence[FaceFileRecord],
        replacing: Collection[str],
    ) -> list[str]:
        """Write the rows; returns the ids of the frames whose files go.

        Those are of what was replaced, and the new ones too where the subject's record says, now
        that it is locked, that frames may be kept no longer.
        """
        subject = find(session, subject_id, locked=True)
        gone, _ = drop(session, subject_id, replacing)
        if not subject.keep_frames:
            gone += [one.id for one in kept]
            kept = []
            for row in rows:
                row.file_id = None
        template = FaceTemplateRecord
        for embedder in {row.embedder for row in rows}:
            query = select(func.count()).where(
                template.subject_id == subject_id, template.embedder == embedder
            )
            if session.scalars(query).one() + len(rows) > MOST_TEMPLATES:
                raise Conflict(
                    f"A subject has at most {MOST_TEMPLATES} templates. Nothing was added."
                )
        session.add_all(kept)
        session.flush()
        session.add_all(rows)
        subject.revision = raise_revision(session)
        return gone
