"""The folders for temporary files of workers and of the attempts of jobs.

A job's child ends without the cleaning-up of libraries, and TensorFlow leaves files in each
process; a worker that is killed removes nothing at all. So each folder is locked as long as its
process lives, and a worker that starts removes those without a holder.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.locks import try_lock

_PREFIX = "opsin-scratch-"


class Scratch:
    """A new folder, in use until `remove`.

    Attributes:
        path: The folder.
        lock: A descriptor. Processes that inherit it hold the lock as long as they live.
    """

    def __init__(self) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            with suppress(FileNotFoundError):
                self.lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                if try_lock(self.lock) and self.path.is_dir():
                    return
                os.close(self.lock)
            # A worker that has just started took it for a left one.

    def remove(self) -> None:
        """Remove the folder with all files in it; may be repeated."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def remove_left_folders() -> None:
    """Remove the folders whose process has ended."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.geteuid() and try_lock(lock):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


@contextmanager
def temporary_files() -> Iterator[None]:
    """Keep the temporary files of this process and its children in a folder of their own."""
    remove_left_folders()
    scratch, before = Scratch(), os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch.path)
    try:
        yield
    finally:
        tempfile.tempdir = None
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        scratch.remove()
