"""Kept frames of subjects, opened: for trainings, and for templates that are made anew."""

from collections.abc import Collection

from sqlalchemy import Engine, select

from contracts.errors import NotFound
from contracts.faces.subjects import Frame
from database.crypto.envelope import Sealer, SealError
from database.engine import reading
from database.faces.face_files import FaceFiles
from database.faces.template_rows import data_key_of, find, frame_purpose, unreadable
from database.tables import FaceFileRecord


class Frames:
    """The table of frames and the files it names. Unavailable without a database.

    Args:
        engine: The database.
        sealer: The master keys.
        files: The frames on the disk.
    """

    def __init__(self, engine: Engine, sealer: Sealer, files: FaceFiles) -> None:
        self._engine = engine
        self._sealer = sealer
        self._files = files

    def of(self, subject_id: str) -> list[str]:
        """The ids of a subject's frames, oldest first.

        Raises:
            SubjectNotFound: There is no such subject.
        """
        row = FaceFileRecord
        query = select(row.id).where(row.subject_id == subject_id)
        with reading(self._engine) as session:
            find(session, subject_id)
            return list(session.scalars(query.order_by(row.created_at, row.id)))

    def get(self, subject_id: str, file_id: str) -> Frame:
        """A frame, opened.

        Raises:
            SubjectNotFound: There is no such subject.
            NotFound: It has no such frame.
            Unavailable: Its key is not here.
        """
        with reading(self._engine) as session:
            subject = find(session, subject_id)
            row = session.get(FaceFileRecord, file_id)
        if row is None or row.subject_id != subject_id:
            raise NotFound("The subject has no such frame.")
        key = data_key_of(self._sealer, subject)
        try:
            content = key.open(self._files.get(subject_id, file_id), frame_purpose(file_id))
        except SealError as error:
            raise unreadable() from error
        return Frame(row.media_type, content)

    def sweep(self) -> int:
        """Remove files that a killed process left without a row; how many."""

        def known(ids: Collection[str]) -> set[tuple[str, str]]:
            row = FaceFileRecord
            query = select(row.subject_id, row.id).where(row.subject_id.in_(ids))
            with reading(self._engine) as session:
                return {(subject, file) for subject, file in session.execute(query)}

        return self._files.sweep(known)
