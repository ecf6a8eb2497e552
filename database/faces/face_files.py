"""Kept frames of subjects on the disk: sealed, a folder a subject, which goes with the subject.

Rows rule, as with jobs: a file is written before its row and removed after it. What a killed
process leaves is a file without a row, which nobody can open once the subject's key is gone, and
which `sweep` removes.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import NotFound, Unavailable
from contracts.faces.subjects import SUBJECT_ID

FILE_ID = r"^ff_[A-Za-z0-9_-]{1,60}$"
_ORPHAN_SECONDS = 3600.0  # a file may be older than its row by one transaction


@dataclass(frozen=True, slots=True)
class FaceFiles:
    """The folders of all subjects.

    Attributes:
        root: `$OPSIN_HOME/faces`; the API and the job workers must see the same one.
    """

    root: Path

    def put(self, subject_id: str, file_id: str, sealed: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            Unavailable: The disk does not take it.
        """
        path = self._path(subject_id, file_id)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise Unavailable("The disk does not take the frames.", retry_after=30) from error

    def get(self, subject_id: str, file_id: str) -> bytes:
        """A file as it lies there, sealed.

        Raises:
            NotFound: It is not there.
        """
        try:
            return self._path(subject_id, file_id).read_bytes()
        except FileNotFoundError:
            raise NotFound("The frame is not there any more.") from None

    def remove(self, subject_id: str, file_ids: Collection[str]) -> None:
        """Remove some files; those that are not there are no error."""
        for file_id in file_ids:
            self._path(subject_id, file_id).unlink(missing_ok=True)
        with suppress(OSError):
            self._folder(subject_id).rmdir()  # only if it is empty

    def remove_all(self, subject_id: str) -> None:
        """Remove a subject's folder."""
        shutil.rmtree(self._folder(subject_id), ignore_errors=True)

    def sweep(
        self,
        known: Callable[[Collection[str]], Collection[tuple[str, str]]],
        orphan_seconds: float = _ORPHAN_SECONDS,
    ) -> int:
        """Remove files without a row, and folders without a file.

        Args:
            known: For some subjects' ids, the (subject, file) pairs that have rows.
            orphan_seconds: How long a file may wait for its row.

        Returns:
            How many files were removed.
        """
        try:
            folders = [path for path in self.root.iterdir() if re.match(SUBJECT_ID, path.name)]
        except OSError:
            return 0
        # Looked at before the rows: a row made meanwhile is of a young file.
        old = [
            path for folder in folders for path in folder.iterdir() if _age(path) > orphan_seconds
        ]
        rows = set(known([folder.name for folder in folders]))
        orphans = [path for path in old if (path.parent.name, path.name) not in rows]
        for path in orphans:
            path.unlink(missing_ok=True)
        for folder in folders:
            if not any(folder.iterdir()) and _age(folder) > orphan_seconds:
                shutil.rmtree(folder, ignore_errors=True)
        return len(orphans)

    def _folder(self, subject_id: str) -> Path:
        if not re.match(SUBJECT_ID, subject_id):
            raise ValueError("not the id of a subject")
        return self.root / subject_id

    def _path(self, subject_id: str, file_id: str) -> Path:
        if not re.match(FILE_ID, file_id):
            raise ValueError("not the id of a file")
        return self._folder(subject_id) / file_id


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0
