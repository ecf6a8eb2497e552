"""How far a training is: plain numbers, so that a checkpoint holds all of them exactly.

The best epoch, the epochs since, and the learning rate's own count belong here and not into
callbacks: what is not in the state is forgotten by a crash, and a resumed run that has forgotten
its best epoch keeps a worse one.
"""

import math
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from contracts.training.trainings import Phase, Schedule

_PLATEAU_EPOCHS = 2
_PLATEAU_FACTOR = 1 / 3
_PLATEAU_FLOOR = 0.01  # of the rate that the phase began with


class Sums(BaseModel):
    """What has been added up over some pictures."""

    loss: float = 0.0
    correct: float = 0.0
    pictures: float = 0.0

    def plus(self, loss: float, correct: float, pictures: float) -> "Sums":
        return Sums(
            loss=self.loss + loss,
            correct=self.correct + correct,
            pictures=self.pictures + pictures,
        )

    @property
    def mean_loss(self) -> float:
        return self.loss / max(self.pictures, 1)

    @property
    def accuracy(self) -> float:
        return self.correct / max(self.pictures, 1)


class State(BaseModel):
    """One training's position.

    Attributes:
        phase: What is being done.
        epoch: Epochs of this phase that are complete.
        step: Steps of the next epoch that are done.
        steps_taken: Steps of this phase, for a schedule that counts them.
        sums: Of the next epoch so far.
        learning_rate: In force, before a cosine.
        best_loss: Lowest so far, infinite before the first epoch; of validation if there is one.
        best_epoch: When that was; 0 before.
        plateau_best: The loss from which the plateau counts.
        plateau_epochs: Epochs since it fell.
        history: Rows of all phases.
        seconds: Time spent by phase.
        best_epochs: Of the phases that are complete.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    phase: Phase
    epoch: int = 0
    step: int = 0
    steps_taken: int = 0
    sums: Sums = Sums()
    learning_rate: float
    best_loss: float = math.inf
    best_epoch: int = 0
    plateau_best: float = math.inf
    plateau_epochs: int = 0
    history: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    best_epochs: dict[str, int] = {}

    def begin(self, phase: Phase, learning_rate: float) -> Self:
        """The state at the start of the next phase; what was measured stays."""
        return type(self)(
            phase=phase,
            learning_rate=learning_rate,
            history=self.history,
            seconds=self.seconds,
            best_epochs=self.best_epochs,
        )

    def is_over(self, epochs: int, patience: int | None) -> bool:
        """Whether the phase ends here: all epochs done, or too many without a better one."""
        stale = self.best_epoch and patience and self.epoch - self.best_epoch >= patience
        return self.epoch >= epochs or bool(stale)

    def rate(self, schedule: Schedule, initial: float, all_steps: int) -> float:
        """The learning rate of the next step."""
        if schedule != "cosine":
            return self.learning_rate
        # Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5, without restarts.
        return initial * 0.5 * (1 + math.cos(math.pi * self.steps_taken / max(all_steps, 1)))

    def close_epoch(self, loss: float, schedule: Schedule, initial: float) -> bool:
        """Count an epoch.

        Args:
            loss: What is to fall.
            schedule: Whether the learning rate follows it.
            initial: The rate that the phase began with.

        Returns:
            Whether it is the best so far.
        """
        self.epoch += 1
        self.step = 0
        self.sums = Sums()
        if schedule == "plateau":
            self._follow(loss, initial)
        better = loss < self.best_loss or not self.best_epoch
        if better:
            self.best_loss, self.best_epoch = loss, self.epoch
        return better

    def _follow(self, loss: float, initial: float) -> None:
        if loss < self.plateau_best:
            self.plateau_best, self.plateau_epochs = loss, 0
            return
        self.plateau_epochs += 1
        if self.plateau_epochs >= _PLATEAU_EPOCHS:
            floor = initial * _PLATEAU_FLOOR
            self.learning_rate = max(self.learning_rate * _PLATEAU_FACTOR, floor)
            self.plateau_epochs = 0
