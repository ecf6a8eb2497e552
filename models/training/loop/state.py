"""The position of a training: plain numbers that a checkpoint stores exactly.

The best epoch, the epochs since then and the plateau counter belong here, not into callbacks:
a crash loses what is not in the state, and a resumed run that has lost its best epoch would keep a
worse one.
"""

import math
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from contracts.training.training_options import StepSchedule
from contracts.training.trainings import Phase, Schedule, TrainingRequest

_PLATEAU_EPOCHS = 2
_PLATEAU_FACTOR = 1 / 3
_PLATEAU_FLOOR = 0.01  # of the initial rate


class RunningMetrics(BaseModel):
    """Sums over the images seen so far. The field names are part of the checkpoint format."""

    loss: float = 0.0
    correct: float = 0.0
    pictures: float = 0.0

    def add(self, loss: float, correct: float, images: float) -> "RunningMetrics":
        return RunningMetrics(
            loss=self.loss + loss,
            correct=self.correct + correct,
            pictures=self.pictures + images,
        )

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.pictures, 1)

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.pictures, 1)


class TrainingState(BaseModel):
    """The position of one training.

    Attributes:
        epoch: Completed epochs of this phase.
        step: Completed steps of the current epoch.
        steps_taken: Completed steps of this phase, for schedules that depend on them.
        sums: Metrics of the current epoch so far.
        learning_rate: The rate in force, before a cosine schedule.
        best_loss: The lowest loss so far, of validation if there is any; infinite at first.
        best_epoch: The epoch of `best_loss`; 0 before the first.
        plateau_best: The loss that the next epochs are compared with.
        plateau_epochs: Epochs since the loss was below `plateau_best`.
        history: One row per epoch, of all phases.
        seconds: Time spent in each phase.
        best_epochs: The best epoch of each completed phase.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    phase: Phase
    epoch: int = 0
    step: int = 0
    steps_taken: int = 0
    sums: RunningMetrics = RunningMetrics()
    learning_rate: float
    best_loss: float = math.inf
    best_epoch: int = 0
    plateau_best: float = math.inf
    plateau_epochs: int = 0
    history: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    best_epochs: dict[str, int] = {}

    def begin(self, phase: Phase, learning_rate: float) -> Self:
        """The state at the start of the next phase; history and times are kept."""
        return type(self)(
            phase=phase,
            learning_rate=learning_rate,
            history=self.history,
            seconds=self.seconds,
            best_epochs=self.best_epochs,
        )

    def is_over(self, epochs: int, patience: int | None) -> bool:
        """Whether the phase ends: all epochs are done, or too many without improvement."""
        stale = self.best_epoch and patience and self.epoch - self.best_epoch >= patience
        return self.epoch >= epochs or bool(stale)

    def likely_end(self, epochs: int, patience: int | None, done: float) -> float:
        """The epoch at which the phase is likely to end, for an estimate of the time that is left.

        If it may end early, between the first and the last possible one: their geometric mean is
        wrong by the same factor, whichever it becomes.

        Args:
            epochs: The maximum.
            patience: Epochs without improvement after which it ends.
            done: Completed epochs, with the completed share of the present one.
        """
        if patience is None:
            return float(epochs)
        first = min(epochs, max(self.best_epoch, 0) + patience)
        return done + math.sqrt(max(first - done, 0.0) * max(epochs - done, 0.0))

    def rate(self, request: TrainingRequest, epoch_steps: int) -> float:
        """The learning rate of the next step.

        Args:
            request: The training.
            epoch_steps: Number of steps of an epoch.
        """
        rate = self._scheduled_rate(request, epoch_steps)
        return rate / (1 + request.decay * self.steps_taken)

    def _scheduled_rate(self, request: TrainingRequest, epoch_steps: int) -> float:
        schedule = request.schedule
        initial: float = getattr(request.learning_rate, self.phase)
        epochs: int = getattr(request.epochs, self.phase)
        if schedule == "cosine":
            # Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5, without restarts.
            share = self.steps_taken / max(epoch_steps * epochs, 1)
            return initial * 0.5 * (1 + math.cos(math.pi * share))
        if schedule == "step":
            falls = {max(1, epochs // 2), max(1, epochs * 3 // 4)}
            schedule = StepSchedule(at=tuple(sorted(falls)))
        if isinstance(schedule, StepSchedule):
            return initial * schedule.factor ** sum(self.epoch >= epoch for epoch in schedule.at)
        return self.learning_rate

    def close_epoch(self, loss: float, schedule: Schedule | StepSchedule, initial: float) -> bool:
        """Count an epoch and adapt the learning rate.

        Args:
            loss: The loss that decides whether the epoch is better.
            schedule: How the learning rate changes.
            initial: The phase's initial learning rate.

        Returns:
            Whether the epoch is the best so far.
        """
        self.epoch += 1
        self.step = 0
        self.sums = RunningMetrics()
        if schedule == "plateau":
            self._reduce_on_plateau(loss, initial)
        # The validation of a first epoch may be NaN, below which no later loss would be.
        best = math.inf if math.isnan(self.best_loss) else self.best_loss
        better = loss < best or not self.best_epoch
        if better:
            self.best_loss, self.best_epoch = loss, self.epoch
        return better

    def _reduce_on_plateau(self, loss: float, initial: float) -> None:
        if loss < self.plateau_best:
            self.plateau_best, self.plateau_epochs = loss, 0
            return
        self.plateau_epochs += 1
        if self.plateau_epochs >= _PLATEAU_EPOCHS:
            floor = initial * _PLATEAU_FLOOR
            self.learning_rate = max(self.learning_rate * _PLATEAU_FACTOR, floor)
            self.plateau_epochs = 0
