"""One phase of a training, epoch by epoch: learn, look at the validation pictures, remember.

It can be killed between any two instructions. All it knows is in the state, the learner's
variables and the best epoch's copy, and these go into one checkpoint; the rest is a pure function
of the seed.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import ValidationFailed
from contracts.jobs import Progress
from contracts.training.trainings import TrainingRequest
from contracts.work import Work
from models.training.data.image_loader import Places
from models.training.data.rng import shuffled
from models.training.data.sources import Source
from models.training.loop.checkpoint import Arrays, Checkpoint, CheckpointFile
from models.training.loop.learner import Batch, Learner
from models.training.loop.progress import Pace
from models.training.loop.state import State, Sums

_WRITING_SHARE = 0.1  # of the time goes into checkpoints, at most
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True)
class Lesson:
    """Pictures and what they show.

    Attributes:
        source: The pictures.
        truth: int32 (n,).
    """

    source: Source
    truth: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Supervision:
    """Who watches a phase and where it is written down.

    Attributes:
        work: Is asked at every step whether to go on.
        pace: Is told how far it is.
        file: Gets the checkpoints.
        checkpoint_seconds: Between two of them; writing takes a tenth of the time at most.
        stepped: Called before the first step and after each, with the steps taken.
    """

    work: Work
    pace: Pace
    file: CheckpointFile
    checkpoint_seconds: float
    stepped: Callable[[int], None]


class PhaseRun:
    """A phase under way.

    Args:
        request: What was asked for.
        state: Where it stands; changed as it goes on.
        learner: What learns.
        train: To learn from.
        validation: To judge by; None: by the training pictures.
        class_weights: float32 (classes,).
        supervision: Who watches.
        best: The best epoch's variables, if there was one.
    """

    def __init__(
        self,
        request: TrainingRequest,
        state: State,
        learner: Learner,
        *,
        train: Lesson,
        validation: Lesson | None,
        class_weights: npt.NDArray[np.float32],
        supervision: Supervision,
        best: Arrays,
    ) -> None:
        self._request, self._state, self._learner = request, state, learner
        self._train, self._validation = train, validation
        self._class_weights = class_weights
        self._watch = supervision
        self._best = best
        self._epochs: int = getattr(request.epochs, state.phase)
        self._initial_rate: float = getattr(request.learning_rate, state.phase)
        self._batch_size = min(request.batch_size, len(train.source))
        self._steps = math.ceil(len(train.source) / self._batch_size)
        self._saved = self._counted = time.monotonic()
        self._write_seconds = 0.0

    def run(self) -> None:
        """Do what is left of it, and leave the learner with the best epoch's weights.

        Raises:
            WorkStoppedError: It was told to end.
        """
        patience = self._request.early_stopping_patience
        self._watch.stepped(self._state.steps_taken)
        while not self._state.is_over(self._epochs, patience):
            self._learn_epoch()
            self._close_epoch()
            self._save_if_due()
        self._learner.restore(self._best)
        self._state.best_epochs[self._state.phase] = self._state.best_epoch
        self._save()

    def _learn_epoch(self) -> None:
        state = self._state
        for batch in self._batches():
            self._watch.work.check()
            rate = state.rate(
                self._request.schedule, self._initial_rate, self._steps * self._epochs
            )
            loss, correct = self._learner.step(batch, rate)
            state.sums = state.sums.plus(loss, correct, float(batch.mask.sum()))
            state.step += 1
            state.steps_taken += 1
            self._tell()
            self._watch.stepped(state.steps_taken)
            self._save_if_due()

    def _batches(self) -> Iterator[Batch]:
        """What is left of this epoch's batches, all of one size."""
        state, size, count = self._state, self._batch_size, len(self._train.source)
        order = shuffled(count, self._request.seed, state.phase, state.epoch)
        full = np.resize(order, self._steps * size)  # begins again where the pictures end
        mask = (np.arange(len(full)) < count).astype(np.float32)
        numbers = range(state.step, self._steps)
        places: list[Places] = [full[n * size : (n + 1) * size] for n in numbers]
        inputs = self._train.source.batches(places, state.epoch)
        for number, batch, arrays in zip(numbers, places, inputs, strict=True):
            truth = self._train.truth[batch]
            present = mask[number * size : (number + 1) * size]
            yield Batch(arrays, truth, present, self._class_weights[truth])

    def _close_epoch(self) -> None:
        state = self._state
        sums = state.sums
        if not math.isfinite(sums.mean_loss):
            rate = getattr(self._request.learning_rate, state.phase)
            raise ValidationFailed(
                f"The training diverged in epoch {state.epoch + 1} of {state.phase}: the loss is "
                f"no number any more. Use a lower learning_rate.{state.phase} than {rate:g}."
            )
        seen = self._look() if self._validation else None
        rate = state.rate(self._request.schedule, self._initial_rate, self._steps * self._epochs)
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "phase": state.phase,
            "loss": sums.mean_loss,
            "accuracy": sums.accuracy,
            "val_loss": seen.mean_loss if seen else None,
            "val_accuracy": seen.accuracy if seen else None,
            "learning_rate": rate,
        }
        state.history.append(row)
        judged = seen or sums
        if state.close_epoch(judged.mean_loss, self._request.schedule, self._initial_rate):
            self._best = self._learner.learned()
        self._watch.work.metrics(row)
        self._tell()

    def _look(self) -> Sums:
        """The validation pictures, as they are."""
        assert self._validation is not None  # noqa: S101  for mypy; `_close_epoch` has looked
        sums = Sums()
        for truth, answers in look(self._learner, self._validation, self._batch_size, self._watch):
            sums = sums.plus(*judged(answers, truth), float(len(truth)))
        return sums

    def _tell(self) -> None:
        state = self._state
        done = state.epoch + state.step / self._steps
        # Between two epochs it is the end of the one, not step 0 of a next that may never come.
        ended = state.step == 0 and state.epoch > 0
        position = Progress(
            fraction=0,
            epoch=state.epoch if ended else state.epoch + 1,
            epochs=self._epochs,
            step=self._steps if ended else state.step,
            steps=self._steps,
        )
        self._watch.pace.at(state.phase, done / self._epochs, position)

    def _save_if_due(self) -> None:
        pause = max(self._watch.checkpoint_seconds, self._write_seconds / _WRITING_SHARE)
        if time.monotonic() - self._saved >= pause:
            self._save()

    def _save(self) -> None:
        began = time.monotonic()
        seconds = self._state.seconds
        seconds[self._state.phase] = seconds.get(self._state.phase, 0.0) + began - self._counted
        self._counted = began
        learner = self._learner
        self._watch.file.write(
            Checkpoint(self._state, learner.learned(), learner.optimizer_state(), self._best)
        )
        self._saved = time.monotonic()
        self._write_seconds = self._saved - began


def look(
    learner: Learner, lesson: Lesson, batch_size: int, watch: Supervision
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
    """What the network says of pictures as they are.

    Yields:
        Truth (n,) and probabilities (n, classes) of batch after batch, in order.
    """
    everything = np.arange(len(lesson.source))
    places = [everything[i : i + batch_size] for i in range(0, len(everything), batch_size)]
    for batch, arrays in zip(places, lesson.source.batches(places, None), strict=True):
        watch.work.check()
        filler = batch_size - len(batch)
        full = tuple(np.concatenate([a, np.repeat(a[:1], filler, 0)]) for a in arrays)
        yield lesson.truth[batch], learner.answer(full)[: len(batch)]


def judged(answers: npt.NDArray[np.float32], truth: npt.NDArray[np.int32]) -> tuple[float, float]:
    """Summed cross-entropy, and how many are right.

    Args:
        answers: Probabilities (n, classes).
        truth: (n,).
    """
    chosen = answers[np.arange(len(truth)), truth].astype(np.float64)
    right = answers.argmax(axis=1) == truth
    return float(-np.log(np.maximum(chosen, _TINY)).sum()), float(right.sum())
