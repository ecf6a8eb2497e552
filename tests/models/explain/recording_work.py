"""A job's work that records its calls."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.jobs import Progress
from contracts.work import WorkStoppedError


@dataclass
class RecordingWork:
    """A `contracts.work.Work` that records its calls and stops after `checks` checks."""

    request: dict[str, Any]
    folder: Path
    checks: int = 1000
    job_id: str = "job_1"
    attempt: int = 1
    fractions: list[float] = field(default_factory=list)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def progress(self, progress: Progress) -> None:
        self.fractions.append(progress.fraction)

    def metrics(self, row: dict[str, Any]) -> None:
        raise AssertionError(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        self.files[name] = (media_type, content)

    def check(self) -> None:
        self.checks -= 1
        if self.checks < 0:
            raise WorkStoppedError
