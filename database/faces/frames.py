"""Decrypts stored frames, for trainings and for templates that have to be recomputed."""

from collections.abc import Collection

from sqlalchemy import Engine, select

from contracts.errors import NotFound
from contracts.faces.subjects import StoredFrame
from database.crypto.envelope import DecryptionError, EnvelopeCipher
from database.engine import batches, reading
from database.faces.face_files import FaceFiles
from database.faces.template_rows import damaged_error, data_key_of, find_subject, frame_purpose
from database.installation import belongs_to
from database.tables import FaceFileRecord, SubjectRecord


class Frames:
    """The table of frames and its files. Raises `Unavailable` if the database does not answer."""

    def __init__(self, engine: Engine, cipher: EnvelopeCipher, files: FaceFiles) -> None:
        self._engine = engine
        self._cipher = cipher
        self._files = files

    def ids_of_subject(self, subject_id: str) -> list[str]:
        """The ids of a subject's frames, oldest first.

        Raises:
            SubjectNotFound: There is no such subject.
        """
        row = FaceFileRecord
        query = select(row.id).where(row.subject_id == subject_id)
        with reading(self._engine) as session:
            find_subject(session, subject_id)
            return list(session.scalars(query.order_by(row.created_at, row.id)))

    def get(self, subject_id: str, file_id: str) -> StoredFrame:
        """Load and decrypt a frame.

        Raises:
            SubjectNotFound: There is no such subject.
            NotFound: The subject has no such frame.
            Damaged: Its file is damaged or missing.
            Unavailable: Its key is missing.
        """
        subject, row = self._rows(subject_id, file_id)
        key = data_key_of(self._cipher, subject)
        try:
            content = key.decrypt(self._files.get(subject_id, file_id), frame_purpose(file_id))
        except (DecryptionError, NotFound) as error:
            self._rows(subject_id, file_id)  # unless it was deleted in the meantime
            raise damaged_error(f"frame {file_id}") from error
        return StoredFrame(row.media_type, content)

    def _rows(self, subject_id: str, file_id: str) -> tuple[SubjectRecord, FaceFileRecord]:
        with reading(self._engine) as session:
            subject = find_subject(session, subject_id)
            row = session.get(FaceFileRecord, file_id)
        if row is None or row.subject_id != subject_id:
            raise NotFound("The subject has no such frame.")
        return subject, row

    def remove_orphans(self) -> int:
        """Delete files that a killed process left without a row; returns how many.

        Nothing is removed if the home belongs to another database.
        """
        if not belongs_to(self._engine, self._files.root.parent):
            return 0

        def with_rows(subject_ids: Collection[str]) -> set[tuple[str, str]]:
            row = FaceFileRecord
            query, existing = select(row.subject_id, row.id), set[tuple[str, str]]()
            with reading(self._engine) as session:
                for batch in batches(subject_ids):
                    found = session.execute(query.where(row.subject_id.in_(batch)))
                    existing |= {(subject, file) for subject, file in found}
            return existing

        return self._files.remove_orphans(with_rows)
