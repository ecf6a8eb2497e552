"""The files of jobs: inputs, checkpoints and artifacts.

Each job has a folder. Its `work` subfolder holds inputs and checkpoints and is removed when the job
has ended; `artifacts` and the event log are removed with the row. Files are written before the row
that names them and removed after it, so a killed process can only leave a folder without a row,
which `sweep` removes.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from contracts.errors import DiskUnusable, NotFound
from contracts.files import flush_entries, write_durably
from contracts.settings import Settings

log = structlog.get_logger()

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_JOB = re.compile(r"job_[A-Za-z0-9_-]{1,36}")
_POLL_SECONDS = 0.1
# A folder is older than its row by the time that the input takes to arrive.
_ORPHAN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The folders of all jobs.

    Attributes:
        root: `$OPSIN_HOME/jobs`; API and job workers must see the same folder.
        event_logs: Contains a folder of logs for some jobs, which is removed with the row.
    """

    root: Path
    event_logs: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The folders of this installation."""
        return cls(settings.jobs_home, settings.event_logs_home)

    def work(self, job_id: str) -> Path:
        """The folder for inputs and checkpoints."""
        return self._folder(job_id) / "work"

    def store_inputs(self, job_id: str, inputs: Mapping[str, bytes | Path]) -> None:
        """Store the inputs of a job in its work folder, before its row is created.

        A path names a file to be moved there, so that large files are not copied.

        Raises:
            ValueError: A name is not valid.
            DiskUnusable: The disk is full or not writable.
        """
        if not inputs:
            return
        for name in inputs:
            check_name(name)
        try:
            work = self.work(job_id)
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, content in inputs.items():
                if isinstance(content, Path):
                    shutil.move(content, work / name)
                    flush_entries(work / name)
                else:
                    write_durably(work / name, content, mode=0o666)
            for folder in (work, work.parent, self.root):
                flush_entries(folder)
        except OSError as error:
            self.remove(job_id)
            raise _full() from error

    def store_artifact(self, job_id: str, name: str, content: bytes) -> None:
        """Write or replace an artifact; a reader sees either the old or the new one.

        Raises:
            ValueError: `name` is not valid.
            DiskUnusable: The disk is full or not writable.
        """
        path = self._artifact(job_id, name)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(path, content, mode=0o666)
        except OSError as error:
            raise _full() from error

    def open_artifact(self, job_id: str, name: str) -> int:
        """Open an artifact; the caller closes the file descriptor.

        Raises:
            NotFound: It does not exist, or no longer.
        """
        try:
            return os.open(self._artifact(job_id, name), os.O_RDONLY | os.O_NOFOLLOW)
        except (OSError, ValueError):
            raise NotFound("That file of the job no longer exists.") from None

    @contextmanager
    def locked(self, job_id: str, seconds: float) -> Iterator[None]:
        """Lock the work folder; the kernel releases the lock when the process ends.

        A process that has lost its job without noticing therefore never writes checkpoints at the
        same time as the process that took the job over.

        Raises:
            TimeoutError: Another process held the lock for `seconds`.
        """
        self.work(job_id).mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._folder(job_id) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            until = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise TimeoutError("another process is working on this job") from None
                    time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(lock)

    def end_work(self, job_id: str) -> None:
        """Remove the work folder of a job that has ended, and drafts of killed writers."""
        shutil.rmtree(self.work(job_id), ignore_errors=True)
        folder = self._folder(job_id)
        with suppress(OSError):
            (folder / "lock").unlink()
        with suppress(OSError):
            for path in (folder / "artifacts").glob(".*"):
                path.unlink()
        with suppress(OSError):
            folder.rmdir()  # succeeds only if there are no artifacts

    def remove(self, job_id: str) -> bool:
        """Remove all files of a job, including its event log; returns whether none is left."""
        folders = [self._folder(job_id)]
        if self.event_logs is not None:
            folders.append(self.event_logs / job_id)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        if not any(map(os.path.lexists, folders)):
            return True
        log.error("job_files_not_removed", job=job_id)
        return False

    def sweep(
        self,
        finished: Callable[[Collection[str]], Mapping[str, bool]],
        orphan_seconds: float = _ORPHAN_SECONDS,
    ) -> int:
        """Remove folders without a row, and the work folders of jobs that have ended.

        Args:
            finished: For those of the ids that have a row, whether the job has finished.
            orphan_seconds: How long a folder may exist without a row.

        Returns:
            The number of folders that were removed or emptied.
        """
        try:
            folders = {path.name: path for path in self.root.iterdir() if _JOB.fullmatch(path.name)}
        except OSError:
            return 0
        # Read before the rows: a row created in the meantime belongs to a recent folder.
        old = {name for name, path in folders.items() if _age(path) > orphan_seconds}
        rows = finished(list(folders))
        orphans = {name for name in old if name not in rows}
        ended = {name for name, is_finished in rows.items() if is_finished and self._has_work(name)}
        for name in orphans:
            self.remove(name)
        for name in ended:
            self.end_work(name)
        return len(orphans | ended)

    def _has_work(self, job_id: str) -> bool:
        return self.work(job_id).exists() or (self._folder(job_id) / "lock").exists()

    def _folder(self, job_id: str) -> Path:
        if not _JOB.fullmatch(job_id):
            raise ValueError("not a job id")
        return self.root / job_id

    def _artifact(self, job_id: str, name: str) -> Path:
        return self._folder(job_id) / "artifacts" / check_name(name)


def check_name(name: str) -> str:
    """Return `name` if it is a valid file name of a job.

    Raises:
        ValueError: It is not.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a file name is 1 to 100 letters, digits, dots, dashes and underscores")
    return name


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _full() -> DiskUnusable:
    return DiskUnusable(
        "The job's files cannot be written to the disk. Retry later.", retry_after=30
    )
