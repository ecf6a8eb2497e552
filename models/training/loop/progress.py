"""How far a training is and how long it will take, told as one fraction over all its stages.

A job's work with a TensorBoard log beside it, and room at the end for what follows learning.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contracts.jobs import Progress
from contracts.work import Work
from models.training.report.event_log import EventLog


class Pace:
    """Tells a `Work` how far it is.

    Args:
        work: To tell.
        stages: Name and expected cost of each stage, in order, in any one unit. Guesses: they
            shape the bar, and the remaining time is corrected by what was measured.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, work: Work, stages: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work = work
        self._stages = dict(stages)
        self._clock = clock
        self._began: tuple[float, float] | None = None

    def at(self, stage: str, share: float, position: Progress | None = None) -> None:
        """Tell that a share of a stage is done.

        Args:
            stage: One of the stages.
            share: 0 to 1.
            position: Epoch and step, if there are any; the rest is filled in.

        Raises:
            WorkStoppedError: The work shall end.
        """
        names = list(self._stages)
        before = sum(self._stages[name] for name in names[: names.index(stage)])
        done = before + self._stages[stage] * min(share, 1.0)
        fraction = min(done / (sum(self._stages.values()) or 1.0), 1.0)
        told = (position or Progress(fraction=0)).model_copy(
            update={"fraction": fraction, "phase": _told(stage), "eta_seconds": self._eta(fraction)}
        )
        self._work.progress(told)

    def _eta(self, fraction: float) -> float | None:
        """From the speed since this attempt began, which a resumed training begins half way."""
        now = self._clock()
        if self._began is None:
            self._began = (now, fraction)
        then, first = self._began
        if fraction - first < 1e-6:
            return None
        return round((now - then) * (1 - fraction) / (fraction - first), 1)


def _told(stage: str) -> str:
    """`features of head` and `features of finetune` are one phase to whoever watches."""
    return stage.partition(" ")[0]


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
