"""A process that decodes one untrusted file with few resources and permissions: the reader's side.

The file is passed in memory and never stored. The process gets no environment, no standard input
and no other file; it limits its own memory and time before it looks at the file. Whatever it sends
has to be validated, because a compromised decoder may send anything.
"""

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import structlog

from contracts.errors import Unavailable

log = structlog.get_logger()

# The whole environment of the process.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_POLL_SECONDS = 0.05  # how long to wait for output before other work may run


class NoOutputError(Exception):
    """The process ended, or wrote nothing in time."""


class ConfinedProcess:
    """A running decoder. Close it to kill it."""

    def __init__(
        self,
        script: Path,
        data: bytes | memoryview,
        arguments: list[str],
        *,
        wait_seconds: float,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Start it.

        Args:
            script: The program, which imports nothing of Opsin.
            data: The file. The program's first argument is its descriptor.
            arguments: Its further arguments.
            wait_seconds: Total time that `read` waits for it.
            check: Called repeatedly while waiting; it may let other work run first, or raise.

        Raises:
            Unavailable: The system starts no process now, which is not the file's fault.
        """
        self._wait_seconds = wait_seconds
        self._check = check
        self._waited = 0.0
        try:
            self._process = _started(script, data, arguments)
        except OSError as error:
            log.warning("decoder_not_started", error=str(error))
            raise Unavailable(
                "The service cannot start a decoder now. Retry soon.", retry_after=5
            ) from error
        if self._process.stdout is None:
            raise RuntimeError("the decoder has no output")
        self._output = self._process.stdout
        # Not select(), which takes no descriptor above 1023: each connection of the API is one.
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._output.close()
        self._process.wait(10)

    def read(self, size: int) -> bytearray:
        """Read exactly `size` bytes of its output.

        Raises:
            NoOutputError: They did not arrive, or not in time.
        """
        data = bytearray(size)
        view, received = memoryview(data), 0
        while received < size:
            ready = self._wait_for_output()
            count = os.readv(self._output.fileno(), [view[received:]]) if ready else 0
            if not count:
                log.info("decoder_without_output", late=not ready, status=self._process.poll())
                raise NoOutputError
            received += count
        return data

    def _wait_for_output(self) -> bool:
        """Whether the process writes something in time; other work may run while waiting."""
        while self._waited < self._wait_seconds:
            started = time.monotonic()
            ready = self._poll.poll(_POLL_SECONDS * 1000)
            # The time that other work takes does not count.
            self._waited += time.monotonic() - started
            if ready:
                return True
            if self._check is not None:
                self._check()
        return False


def _started(
    script: Path, data: bytes | memoryview, arguments: list[str]
) -> "subprocess.Popen[bytes]":
    with _anonymous_file(data) as file:
        descriptor = file.fileno()
        return subprocess.Popen(  # noqa: S603  our own file
            # Without the user's site packages and environment.
            [sys.executable, "-I", str(script), str(descriptor), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[descriptor],
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )


def _anonymous_file(data: bytes | memoryview) -> BinaryIO:
    """A file without a name that contains the data, in memory if the system supports it."""
    if hasattr(os, "memfd_create"):
        file: BinaryIO = os.fdopen(os.memfd_create("upload"), "w+b")
    else:
        file = os.fdopen(_open_unlinked(), "w+b")
    try:
        file.write(data)
        file.flush()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _open_unlinked() -> int:
    """A file on disk that is deleted when it is closed."""
    descriptor, path = tempfile.mkstemp()
    Path(path).unlink()
    return descriptor
