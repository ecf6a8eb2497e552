"""The files beside a job's row: what it was given, its checkpoints, what it made.

A folder a job: `work` is the scratch of the work, inputs included, and goes when the job has ended;
`artifacts` goes with the row, and so does the event log. Rows rule: files are written before the
row that names them and removed after it, so what a killed process leaves behind is only ever a
folder without a row, which `sweep` finds.
"""

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from contracts.errors import NotFound, Unavailable
from contracts.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_JOB = re.compile(r"job_[A-Za-z0-9_-]{1,36}")
_LOOK_SECONDS = 0.1
# A folder is older than its row by as long as the input takes to arrive.
_ORPHAN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class JobFiles:
    """All jobs' folders.

    Attributes:
        root: `$OPSIN_HOME/jobs`; API and job workers must see the same one.
        event_logs: Where each job may have a folder of logs, which goes with its row.
    """

    root: Path
    event_logs: Path | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The folders of this installation."""
        return cls(settings.jobs_home, settings.event_logs_home)

    def work(self, job_id: str) -> Path:
        """The scratch folder."""
        return self._folder(job_id) / "work"

    def store_inputs(self, job_id: str, inputs: Mapping[str, bytes | Path]) -> None:
        """Lay what the client sent into the scratch folder, before there is a row.

        A path names a file that is moved there: what is large is not written twice.

        Raises:
            ValueError: A name is none that a file here may have.
            Unavailable: The disk does not take it.
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
                else:
                    _write(work / name, content)
        except OSError as error:
            self.remove(job_id)
            raise _full() from error

    def store_artifact(self, job_id: str, name: str, content: bytes) -> None:
        """Write or replace an artifact; whoever reads sees the old one or the new one, whole.

        Raises:
            ValueError: `name` is none that a file here may have.
            Unavailable: The disk does not take it.
        """
        path = self._artifact(job_id, name)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, content)
        except OSError as error:
            raise _full() from error

    def open_artifact(self, job_id: str, name: str) -> int:
        """A file descriptor to read it from, the caller's to close.

        Raises:
            NotFound: It is not there (any more).
        """
        try:
            return os.open(self._artifact(job_id, name), os.O_RDONLY | os.O_NOFOLLOW)
        except (OSError, ValueError):
            raise NotFound("That file of the job is not there any more.") from None

    @contextmanager
    def locked(self, job_id: str, seconds: float) -> Iterator[None]:
        """Hold the scratch folder alone; the kernel lets go when the process ends.

        So a process that lost its job without noticing never writes checkpoints beside the one
        that took the job over.

        Raises:
            TimeoutError: Another process held it for all of `seconds`.
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
                        raise TimeoutError("another process works on this job") from None
                    time.sleep(_LOOK_SECONDS)
            yield
        finally:
            os.close(lock)

    def end_work(self, job_id: str) -> None:
        """Remove the scratch of a job that has ended, and what a killed writer left."""
        shutil.rmtree(self.work(job_id), ignore_errors=True)
        folder = self._folder(job_id)
        with suppress(OSError):
            (folder / "lock").unlink()
        with suppress(OSError):
            for path in (folder / "artifacts").glob(".*"):
                path.unlink()
        with suppress(OSError):
            folder.rmdir()  # only if it made nothing

    def remove(self, job_id: str) -> None:
        """Remove all files of a job, its event log too."""
        shutil.rmtree(self._folder(job_id), ignore_errors=True)
        if self.event_logs is not None:
            shutil.rmtree(self.event_logs / job_id, ignore_errors=True)

    def sweep(
        self,
        fates: Callable[[Collection[str]], Mapping[str, bool]],
        orphan_seconds: float = _ORPHAN_SECONDS,
    ) -> int:
        """Remove folders without a row, and the scratch of jobs that have ended.

        Args:
            fates: For those of the ids that have a row, whether the job has ended.
            orphan_seconds: How long a folder may wait for its row.

        Returns:
            How many folders were removed or emptied.
        """
        try:
            found = {path.name: path for path in self.root.iterdir() if _JOB.fullmatch(path.name)}
        except OSError:
            return 0
        # Looked at before the rows: a row made meanwhile is of a young folder.
        old = {name for name, path in found.items() if _age(path) > orphan_seconds}
        rows = fates(list(found))
        orphans = {name for name in old if name not in rows}
        ended = {name for name, is_over in rows.items() if is_over and self._has_scratch(name)}
        for name in orphans:
            self.remove(name)
        for name in ended:
            self.end_work(name)
        return len(orphans | ended)

    def _has_scratch(self, job_id: str) -> bool:
        return self.work(job_id).exists() or (self._folder(job_id) / "lock").exists()

    def _folder(self, job_id: str) -> Path:
        if not _JOB.fullmatch(job_id):
            raise ValueError("not the id of a job")
        return self.root / job_id

    def _artifact(self, job_id: str, name: str) -> Path:
        return self._folder(job_id) / "artifacts" / check_name(name)


def check_name(name: str) -> str:
    """The name, if a file of a job may be called so.

    Raises:
        ValueError: It may not.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a file's name is 1 to 100 letters, digits, dots, dashes, underscores")
    return name


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _full() -> Unavailable:
    return Unavailable("The disk does not take the job's files. Retry later.", retry_after=30)
