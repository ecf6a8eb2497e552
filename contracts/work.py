"""What a long task may ask and tell while it runs in a process of its own.

`models` does the work and knows neither queue nor database; `workers` implements this protocol
over the job's lease. The command line implements it over the terminal, so `opsin train` runs the
same code.
"""

from pathlib import Path
from typing import Any, Protocol

from contracts.jobs import Progress


class WorkStoppedError(Exception):
    """The work shall end now: it was cancelled, or another worker has it. Keep nothing half done.

    Not an `OpsinError`: it is no answer to anybody. Let it pass; whoever began the work knows why.
    """


class Work(Protocol):
    """One attempt at a long task.

    Attributes:
        job_id: The job; also the key under which what it makes is published once.
        attempt: From 1; more after a process was lost.
        request: What is to be done, as it was asked for and validated.
        folder: The job's own, for checkpoints. It outlives a lost process and is removed when the
            job has ended, so the next attempt finds there what the last one left.
    """

    job_id: str
    attempt: int
    request: dict[str, Any]
    folder: Path

    def progress(self, progress: Progress) -> None:
        """Tell how far it is, as often as you like; it is written a few times a second at most.

        Raises:
            WorkStoppedError: As `check`.
        """
        ...

    def metrics(self, row: dict[str, Any]) -> None:
        """Add a row, e.g. an epoch's. A row with the same epoch and phase replaces the earlier."""
        ...

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        """Give the job a file, or replace the one of that name; seen whole or not at all."""
        ...

    def check(self) -> None:
        """Call it at every step; it costs microseconds.

        Raises:
            WorkStoppedError: The job was cancelled, or is no longer this process's.
        """
        ...
