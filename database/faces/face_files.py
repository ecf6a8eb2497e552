"""Encrypted frames of subjects on disk, one folder per subject.

As with jobs, the database row decides: a file is written before its row and deleted after it. A
killed process can leave a file without a row, which cannot be decrypted once the subject's key is
deleted, and which `FaceFiles.remove_orphans` deletes.
"""

import os
import re
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import DiskUnusable, NotFound
from contracts.faces.subjects import SUBJECT_ID
from contracts.files import flush_entries, write_durably
from database.installation import require_mounted

FILE_ID = r"^ff_[A-Za-z0-9_-]{1,60}$"
_ORPHAN_SECONDS = 3600.0  # a file is older than its row by up to one transaction


@dataclass(frozen=True, slots=True)
class FaceFiles:
    """The folders of all subjects.

    Attributes:
        root: `$OPSIN_HOME/faces`; the API and the job workers must share it.
    """

    root: Path

    def put(self, subject_id: str, file_id: str, encrypted: bytes) -> None:
        """Write a file atomically.

        Raises:
            DiskUnusable: The file cannot be written, or the data home is not mounted.
        """
        require_mounted(self.root.parent)
        path = self._path(subject_id, file_id)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(path, encrypted)
            flush_entries(path.parent.parent)
        except OSError as error:
            raise DiskUnusable("The frames cannot be written to disk.", retry_after=30) from error

    def get(self, subject_id: str, file_id: str) -> bytes:
        """Read a file, which is encrypted.

        Raises:
            NotFound: It does not exist.
        """
        try:
            return self._path(subject_id, file_id).read_bytes()
        except FileNotFoundError:
            raise NotFound("The frame no longer exists.") from None

    def remove(self, subject_id: str, file_ids: Collection[str]) -> None:
        """Delete some files; missing ones are ignored."""
        for file_id in file_ids:
            self._path(subject_id, file_id).unlink(missing_ok=True)
        with suppress(OSError):
            self._folder(subject_id).rmdir()  # succeeds only if it is empty

    def existing_among(self, subject_ids: Collection[str]) -> set[str]:
        """Those of some subjects who have a folder."""
        return {one for one in subject_ids if os.path.lexists(self._folder(one))}

    def remove_all(self, subject_id: str) -> None:
        """Delete a subject's folder.

        Raises:
            DiskUnusable: Something of it is still there; it may be repeated.
        """
        folder = self._folder(subject_id)
        shutil.rmtree(folder, ignore_errors=True)
        if os.path.lexists(folder):
            raise DiskUnusable("The frames cannot be deleted from the disk.", retry_after=30)

    def remove_orphans(
        self,
        with_rows: Callable[[Collection[str]], Collection[tuple[str, str]]],
        orphan_seconds: float = _ORPHAN_SECONDS,
    ) -> int:
        """Delete files without a row, and empty folders.

        Args:
            with_rows: Returns, for subject ids, the (subject, file) pairs that have rows.
            orphan_seconds: Age from which a file without a row is an orphan.

        Returns:
            The number of deleted files.
        """
        try:
            folders = [path for path in self.root.iterdir() if re.match(SUBJECT_ID, path.name)]
        except OSError:
            return 0
        # Listed before the rows are read: a row added in between belongs to a young file.
        old = [
            path for folder in folders for path in folder.iterdir() if _age(path) > orphan_seconds
        ]
        rows = set(with_rows([folder.name for folder in folders]))
        orphans = [path for path in old if (path.parent.name, path.name) not in rows]
        for path in orphans:
            path.unlink(missing_ok=True)
        for folder in folders:
            if not any(folder.iterdir()) and _age(folder) > orphan_seconds:
                shutil.rmtree(folder, ignore_errors=True)
        return len(orphans)

    def _folder(self, subject_id: str) -> Path:
        if not re.match(SUBJECT_ID, subject_id):
            raise ValueError("not a subject id")
        return self.root / subject_id

    def _path(self, subject_id: str, file_id: str) -> Path:
        if not re.match(FILE_ID, file_id):
            raise ValueError("not a file id")
        return self._folder(subject_id) / file_id


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
