"""A job's work that keeps what it is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.jobs import Progress
from contracts.work import WorkStoppedError


@dataclass
class Kept:
    """A `contracts.work.Work` that keeps what it is told, and stops after so many checks."""

    request: dict[str, Any]
    folder: Path
    checks: int = 1000
    job_id: str = "job_1"
    attempt: int = 1
    told: list[float] = field(default_factory=list)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def progress(self, progress: Progress) -> None:
        self.told.append(progress.fraction)

    def metrics(self, row: dict[str, Any]) -> None:
        raise AssertionError(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        self.files[name] = (media_type, content)

    def check(self) -> None:
        self.checks -= 1
        if self.checks < 0:
            raise WorkStoppedError
