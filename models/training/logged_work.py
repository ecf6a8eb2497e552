"""A job's work with a TensorBoard log beside it, and room at the end for what follows learning."""

from pathlib import Path
from typing import Any

from contracts.jobs import Progress
from contracts.work import Work
from models.training.event_log import EventLog

LEARNING = 0.94
"""The share of the whole that learning is taken for; report, export and publishing are the rest."""


class LoggedWork:
    """Passes everything on.

    Args:
        work: To whom.
        log: Hears of the metrics too.
    """

    def __init__(self, work: Work, log: EventLog) -> None:
        self._work, self._log = work, log
        self.job_id: str = work.job_id
        self.attempt: int = work.attempt
        self.request: dict[str, Any] = work.request
        self.folder: Path = work.folder

    def progress(self, progress: Progress) -> None:
        self._work.progress(progress.model_copy(update={"fraction": LEARNING * progress.fraction}))

    def metrics(self, row: dict[str, Any]) -> None:
        self._log.row(row)
        self._work.metrics(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        self._work.artifact(name, media_type, content)

    def check(self) -> None:
        self._work.check()
