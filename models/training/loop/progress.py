"""How a training reports its progress: one fraction over all stages, and a copy of each epoch.

The bar reaches `LEARNING_SHARE` at the end of the learning; exporting, the report and publishing
fill the rest.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contracts.jobs import Progress
from contracts.work import Work
from models.training.report.event_log import EventLog

LEARNING_SHARE = 0.94


class ProgressReporter:
    """Reports progress to a `Work`.

    Args:
        work: Receives the progress.
        stages: Name and expected cost of each stage, in order and in any unit. The costs are
            estimates: they shape the bar, and the remaining time follows the measured speed.
        clock: Monotonic seconds.
    """

    def __init__(
        self, work: Work, stages: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work = work
        self._stages = dict(stages)
        self._clock = clock
        self._start: tuple[float, float] | None = None

    def report(self, stage: str, share: float, position: Progress | None = None) -> None:
        """Report that a share of a stage is done.

        Args:
            stage: Name of the stage.
            share: 0 to 1.
            position: Epoch and step, if the stage has any; the other fields are filled in.

        Raises:
            WorkStoppedError: The job was cancelled or lost.
        """
        names = list(self._stages)
        before = sum(self._stages[name] for name in names[: names.index(stage)])
        done = before + self._stages[stage] * min(share, 1.0)
        fraction = min(done / (sum(self._stages.values()) or 1.0), 1.0)
        # "features of head" and "features of finetune" are one phase for clients.
        phase = stage.partition(" ")[0]
        update = {"fraction": fraction, "phase": phase, "eta_seconds": self._eta(fraction)}
        self._work.progress((position or Progress(fraction=0)).model_copy(update=update))

    def _eta(self, fraction: float) -> float | None:
        """Seconds left at the speed of this attempt, which may have resumed halfway."""
        now = self._clock()
        if self._start is None:
            self._start = (now, fraction)
        start, first = self._start
        if fraction - first < 1e-6:
            return None
        return round((now - start) * (1 - fraction) / (fraction - first), 1)


class LoggedWork:
    """Forwards to the wrapped work, logs the metrics for TensorBoard and scales the progress."""

    def __init__(self, work: Work, log: EventLog) -> None:
        self._work, self._log = work, log
        self.job_id: str = work.job_id
        self.attempt: int = work.attempt
        self.request: dict[str, Any] = work.request
        self.folder: Path = work.folder

    def progress(self, progress: Progress) -> None:
        fraction = LEARNING_SHARE * progress.fraction
        self._work.progress(progress.model_copy(update={"fraction": fraction}))

    def metrics(self, row: dict[str, Any]) -> None:
        self._log.row(row)
        self._work.metrics(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        self._work.artifact(name, media_type, content)

    def check(self) -> None:
        self._work.check()
