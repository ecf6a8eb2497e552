"""How a training reports its progress: one fraction over all stages, and the time that is left.

The stages have expected costs in seconds (`models.training.loop.costs`). The fraction follows them
alone, so it is the same in every attempt and never goes back. The time that is left follows what
this machine has needed so far: for the present stage its own pace, for the later ones that of all.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from contracts.jobs import Progress
from contracts.work import Work, WorkStoppedError

if TYPE_CHECKING:
    from models.training.report.event_log import EventLog  # TensorFlow

_TICK_SECONDS = 1.0
# What the expected costs weigh against what was measured: as much as this share of all.
_PRIOR, _STAGE_PRIOR = 0.03, 0.1
# A stage without shares is taken to be no further than this, however long it has run.
_MAX_TICKED = 0.9
# What takes longer than expected will go on for this share of the time that it has taken.
_OVERDUE = 0.4


@dataclass(slots=True)
class _Run:
    """One stage in this attempt.

    Attributes:
        began: Clock when it was entered; `ended` when the next one was, or the present time.
        first: Its share when it was entered.
        share: Its present share.
        skipped: What of it needed no time, such as cached features.
    """

    began: float
    ended: float
    first: float
    share: float
    skipped: float = 0.0

    @property
    def done(self) -> float:
        """The share that was worked on."""
        return max(0.0, self.share - self.first - self.skipped)

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class ProgressReporter:
    """Reports progress to a `Work`.

    Args:
        work: Receives the progress.
        stages: Name and expected seconds of each stage, in order.
        clock: Monotonic seconds.
    """

    def __init__(
        self, work: Work, stages: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._work = work
        self._stages = dict(stages)
        self._clock = clock
        self._total = sum(self._stages.values()) or 1.0
        self._runs: dict[str, _Run] = {}
        self._fraction = 0.0

    def report(
        self,
        stage: str,
        share: float,
        position: Progress | None = None,
        *,
        ends_at: float = 1.0,
        stage_left: float | None = None,
    ) -> None:
        """Report that a share of a stage is done.

        Args:
            stage: Name of the stage.
            share: 0 to 1.
            position: Epoch and step, if the stage has any; the other fields are filled in.
            ends_at: The share at which the stage is likely to end.
            stage_left: The seconds that are left of the stage, if known otherwise.

        Raises:
            WorkStoppedError: The job was cancelled or lost.
        """
        self._note(stage, min(share, 1.0))
        names = list(self._stages)
        before = sum(self._stages[name] for name in names[: names.index(stage)])
        done = before + self._stages[stage] * min(share, 1.0)
        self._fraction = max(self._fraction, min(done / self._total, 1.0))
        update = {
            "fraction": self._fraction,
            "phase": phase_of(stage),
            "eta_seconds": round(self._left(stage, max(0.0, ends_at - share), stage_left), 1),
        }
        self._work.progress((position or Progress(fraction=0)).model_copy(update=update))

    def skip(self, stage: str, share: float) -> None:
        """Note that a share of a stage needs no time, before it is reported."""
        self._note(stage, self._runs[stage].share if stage in self._runs else 0.0)
        self._runs[stage].skipped += share

    def elapsed(self, stage: str, seconds: float) -> None:
        """Note a stage that has ended before this object was made."""
        now = self._clock()
        self._runs[stage] = _Run(now - seconds, now, 0.0, 1.0)

    @contextmanager
    def during(self, stage: str) -> Iterator[None]:
        """Report a stage that has no steps: by the time it takes, from a thread of its own."""
        self.report(stage, 0.0)
        ended = Event()

        def tick() -> None:
            began = self._clock()
            while not ended.wait(_TICK_SECONDS):
                expected = max(self._stages[stage] * self._pace(), 1e-3)
                spent = self._clock() - began
                share = min(spent / expected, _MAX_TICKED)
                left = max(expected - spent, _OVERDUE * spent)
                with suppress(WorkStoppedError):  # the stage itself finds out
                    self.report(stage, share, stage_left=left)

        thread = Thread(target=tick, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        with suppress(WorkStoppedError):  # the next stage finds out, if there still is one
            self.report(stage, 1.0)

    def ratios(self) -> dict[str, float]:
        """By stage, the seconds it took in proportion to what was expected.

        Stages of which less than a fifth was worked on in this attempt are left out.
        """
        return {
            name: run.seconds / (self._stages[name] * run.done)
            for name, run in self._runs.items()
            if run.done > 0.2 and self._stages[name] > 0
        }

    def _note(self, stage: str, share: float) -> None:
        now = self._clock()
        run = self._runs.get(stage)
        if run is None:
            run = self._runs[stage] = _Run(now, now, share, share)
        run.ended, run.share = now, max(run.share, share)

    def _left(self, stage: str, share: float, stage_left: float | None) -> float:
        names = list(self._stages)
        later = sum(self._stages[name] for name in names[names.index(stage) + 1 :])
        pace = self._pace()
        if stage_left is None:
            stage_left = self._stages[stage] * share * self._pace_of(stage, pace)
        return stage_left + later * pace

    def _pace(self) -> float:
        """Measured seconds for each expected one, over all stages so far."""
        seconds = sum(run.seconds for run in self._runs.values())
        expected = sum(self._stages[name] * run.done for name, run in self._runs.items())
        prior = _PRIOR * self._total
        return (seconds + prior) / (expected + prior)

    def _pace_of(self, stage: str, pace: float) -> float:
        run, prior = self._runs[stage], _STAGE_PRIOR * self._stages[stage]
        if not run.done or not prior:
            return pace
        return (run.seconds + prior * pace) / (self._stages[stage] * run.done + prior)


def phase_of(stage: str) -> str:
    """The name of a stage for clients: "features of head" and "… of finetune" are one phase."""
    return stage.partition(" ")[0]


class LoggedWork:
    """Forwards to the wrapped work, and logs the metrics for TensorBoard."""

    def __init__(self, work: Work, log: "EventLog") -> None:
        self._work, self._log = work, log
        self.job_id: str = work.job_id
        self.attempt: int = work.attempt
        self.request: dict[str, Any] = work.request
        self.folder: Path = work.folder

    def progress(self, progress: Progress) -> None:
        self._work.progress(progress)

    def metrics(self, row: dict[str, Any]) -> None:
        self._log.row(row)
        self._work.metrics(row)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        self._work.artifact(name, media_type, content)

    def check(self) -> None:
        self._work.check()
