"""How a long task reports progress and results while it runs in its own process.

`models` does the work and knows neither queue nor database; `workers` implements this protocol on
the job's lease. The command line implements it on the terminal, so that `opsin train` runs the same
code.
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from contracts.jobs import Progress


class WorkStoppedError(Exception):
    """The work must end now: it was cancelled, or another worker has it. Leave nothing half done.

    Not an `OpsinError`, as it is no response to a client. Do not catch it; the caller knows why.
    """


class Work(Protocol):
    """One attempt at a long task.

    Attributes:
        job_id: The job; also the key under which its result is published only once.
        attempt: Attempt number, starting at 1; more after a process was lost.
        request: The validated request.
        folder: The job's own folder, for checkpoints. It outlives a lost process and is removed
            when the job has ended, so the next attempt finds what the last one left.
    """

    job_id: str
    attempt: int
    request: dict[str, Any]
    folder: Path

    def progress(self, progress: Progress) -> None:
        """Report progress, as often as you like; it is written at most a few times a second.

        Raises:
            WorkStoppedError: As `check`.
        """
        ...

    def metrics(self, row: dict[str, Any]) -> None:
        """Add a row of metrics. A row with the same epoch and phase replaces the earlier one."""
        ...

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        """Add a file to the job, or replace the one of that name, atomically."""
        ...

    def check(self) -> None:
        """Check whether to continue. Call it at every step; it costs microseconds.

        Raises:
            WorkStoppedError: The job was cancelled, or is no longer this process's.
        """
        ...


@runtime_checkable
class CountsEpochs(Protocol):
    """A `Work` whose process reports how much is trained; the command line's does not."""

    def trained(self, phase: str, images: int) -> None:
        """Count an epoch that has ended, and the images that it has seen."""
        ...


@runtime_checkable
class HasScopes(Protocol):
    """A `Work` that knows what those who asked for it may do.

    Attributes:
        scopes: Of the job: its key was checked for all of them.
    """

    scopes: frozenset[str]
