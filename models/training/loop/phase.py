"""One phase of a training, epoch by epoch: train, validate, keep the best weights.

It may be killed at any instruction. Its position, the learner's variables and the best epoch's
copy go into one checkpoint; everything else is a pure function of the seed.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import ValidationFailed
from contracts.jobs import Progress
from contracts.training.trainings import TrainingRequest
from contracts.work import Work
from models.datasets.dataset import Dataset
from models.training.data.image_loader import Indices
from models.training.data.rng import epoch_order
from models.training.data.sources import Source
from models.training.loop.checkpoint import Arrays, Checkpoint, CheckpointFile
from models.training.loop.learner import Batch, Learner
from models.training.loop.progress import ProgressReporter
from models.training.loop.state import RunningMetrics, TrainingState
from models.training.report.event_log import EventLog
from models.training.report.filter_recorder import FilterRecorder

_CHECKPOINT_SHARE = 0.1  # the largest share of the time that is spent writing checkpoints
_TINY = np.finfo(np.float32).tiny
_EPSILON = 1e-7  # of Keras's binary cross-entropy
_BLOCK = 1024  # images


@dataclass(frozen=True, slots=True)
class LabeledSource:
    """The images of one split and their classes.

    Attributes:
        source: The images.
        truth: int32 (n,), the class of each.
    """

    source: Source
    truth: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PhaseData:
    """What a phase trains on.

    Attributes:
        train: Training images.
        validation: Decides which epoch is the best; None to use the training loss instead.
        class_weights: float32 (classes,).
        test: Measured after each epoch for the log alone; None if it is not.
    """

    train: LabeledSource
    validation: LabeledSource | None
    class_weights: npt.NDArray[np.float32]
    test: LabeledSource | None = None


@dataclass(frozen=True, slots=True)
class TrainingHooks:
    """What a training reports to while it runs.

    Attributes:
        work: Checked for cancellation at every step.
        progress: Receives the progress.
        file: Receives the checkpoints.
        checkpoint_seconds: Time between two checkpoints, or longer if writing takes more than a
            tenth of the time.
        filters: Records kernels after each step, if requested.
        log: Receives what `work` does not: weights, and points within epochs.
    """

    work: Work
    progress: ProgressReporter
    file: CheckpointFile
    checkpoint_seconds: float
    filters: FilterRecorder | None
    log: EventLog | None = None


class PhaseRun:
    """The run of one phase.

    Args:
        request: The training.
        state: The position, updated as the phase proceeds.
        learner: The network and its optimizer.
        data: What it trains on.
        hooks: What it reports to.
        best: The best epoch's variables of a resumed phase.
    """

    def __init__(
        self,
        request: TrainingRequest,
        state: TrainingState,
        learner: Learner,
        data: PhaseData,
        hooks: TrainingHooks,
        *,
        best: Arrays,
    ) -> None:
        self._request, self._state, self._learner = request, state, learner
        self._data, self._hooks = data, hooks
        self._best = best
        self._epochs: int = getattr(request.epochs, state.phase)
        self._initial_rate: float = getattr(request.learning_rate, state.phase)
        images = len(data.train.source)
        self._batch_size = min(request.batch_size, images)
        self._steps = math.ceil(images / self._batch_size)
        self._saved_at = self._counted_until = time.monotonic()
        self._write_seconds = 0.0

    def run(self) -> None:
        """Run the rest of the phase and restore the best epoch's weights.

        Raises:
            WorkStoppedError: The job was cancelled or lost.
            ValidationFailed: The loss is not finite any more.
        """
        patience = self._request.early_stopping_patience
        self._record_filters()
        while not self._state.is_over(self._epochs, patience):
            self._train_epoch()
            self._close_epoch()
            self._save_if_due()
        self._learner.restore(self._best)
        self._state.best_epochs[self._state.phase] = self._state.best_epoch
        self._save()

    def _train_epoch(self) -> None:
        state = self._state
        for batch in self._batches():
            self._hooks.work.check()
            loss, correct = self._learner.step(batch, self._learning_rate())
            state.sums = state.sums.add(loss, correct, float(batch.mask.sum()))
            state.step += 1
            state.steps_taken += 1
            self._log_batch(loss, correct, float(batch.mask.sum()))
            self._report()
            self._record_filters()
            self._save_if_due()

    def _batches(self) -> Iterator[Batch]:
        """The remaining batches of this epoch, all of one size."""
        state, size, train = self._state, self._batch_size, self._data.train
        count = len(train.source)
        order = epoch_order(count, self._request.seed, state.phase, state.epoch)
        padded = np.resize(order, self._steps * size)  # starts again from the first image
        mask = (np.arange(len(padded)) < count).astype(np.float32)
        numbers = range(state.step, self._steps)
        indices: list[Indices] = [padded[n * size : (n + 1) * size] for n in numbers]
        inputs = train.source.batches(indices, state.epoch)
        for number, batch, arrays in zip(numbers, indices, inputs, strict=True):
            truth = train.truth[batch]
            present = mask[number * size : (number + 1) * size]
            yield Batch(arrays, truth, present, self._data.class_weights[truth])

    def _close_epoch(self) -> None:
        state, training = self._state, self._state.sums
        if not math.isfinite(training.mean_loss):
            rate = getattr(self._request.learning_rate, state.phase)
            raise ValidationFailed(
                f"The training diverged in epoch {state.epoch + 1} of {state.phase}: the loss is "
                f"not finite. Use a lower learning_rate.{state.phase} than {rate:g}."
            )
        validation = self._measure(self._data.validation)
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "phase": state.phase,
            "loss": training.mean_loss,
            "accuracy": training.accuracy,
            "val_loss": validation.mean_loss if validation else None,
            "val_accuracy": validation.accuracy if validation else None,
            "learning_rate": self._learning_rate(),
            "images": int(training.pictures),
        }
        state.history.append(row)
        loss = (validation or training).mean_loss
        if state.close_epoch(loss, self._request.schedule, self._initial_rate):
            self._best = self._learner.learned()
        patience = self._request.early_stopping_patience
        if state.epoch < self._epochs and state.is_over(self._epochs, patience):
            row["stopped_early"] = True
        self._hooks.work.metrics(row)
        self._log_epoch()
        self._report()

    def _log_batch(self, loss: float, correct: float, count: float) -> None:
        every, steps = self._request.log_every, self._state.steps_taken
        if self._hooks.log is not None and every and steps % every == 0:
            self._hooks.log.batch(steps, loss / count, correct / count)

    def _log_epoch(self) -> None:
        log = self._hooks.log
        if log is None:
            return
        log.weights(self._learner.model)
        if (test := self._measure(self._data.test)) is not None:
            log.tested(test.mean_loss, test.accuracy)

    def _measure(self, labeled: LabeledSource | None) -> RunningMetrics | None:
        if labeled is None:
            return None
        metrics = RunningMetrics()
        batches = predict_batches(self._learner, labeled, self._batch_size, self._hooks.work)
        for truth, probabilities in batches:
            loss, correct = loss_and_correct(
                probabilities, truth, independent=self._request.has_independent_outputs
            )
            metrics = metrics.add(loss, correct, float(len(truth)))
        return metrics

    def _learning_rate(self) -> float:
        return self._state.rate(self._request, self._steps)

    def _record_filters(self) -> None:
        if self._hooks.filters:
            self._hooks.filters.record(self._state.steps_taken)

    def _report(self) -> None:
        state = self._state
        done = state.epoch + state.step / self._steps
        # Between two epochs, report the end of the last one: the next may never start.
        ended = state.step == 0 and state.epoch > 0
        position = Progress(
            fraction=0,
            epoch=state.epoch if ended else state.epoch + 1,
            epochs=self._epochs,
            step=self._steps if ended else state.step,
            steps=self._steps,
        )
        likely = state.likely_end(self._epochs, self._request.early_stopping_patience, done)
        self._hooks.progress.report(
            state.phase, done / self._epochs, position, ends_at=likely / self._epochs
        )

    def _save_if_due(self) -> None:
        pause = max(self._hooks.checkpoint_seconds, self._write_seconds / _CHECKPOINT_SHARE)
        if time.monotonic() - self._saved_at >= pause:
            self._save()

    def _save(self) -> None:
        began = time.monotonic()
        state, learner = self._state, self._learner
        spent = began - self._counted_until
        state.seconds[state.phase] = state.seconds.get(state.phase, 0.0) + spent
        self._counted_until = began
        self._hooks.file.write(
            Checkpoint(state, learner.learned(), learner.optimizer_state(), self._best)
        )
        self._saved_at = time.monotonic()
        self._write_seconds = self._saved_at - began


def predict_batches(
    learner: Learner, labeled: LabeledSource, batch_size: int, work: Work
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
    """Predict all images of a source, in order and without augmentation.

    Yields:
        Truth (n,) and probabilities (n, classes) of each batch.

    Raises:
        WorkStoppedError: The job was cancelled or lost.
    """
    everything = np.arange(len(labeled.source))
    indices = [everything[i : i + batch_size] for i in range(0, len(everything), batch_size)]
    for batch, arrays in zip(indices, labeled.source.batches(indices, None), strict=True):
        work.check()
        padding = batch_size - len(batch)
        padded = tuple(np.concatenate([a, np.repeat(a[:1], padding, 0)]) for a in arrays)
        yield labeled.truth[batch], learner.predict(padded)[: len(batch)]


def loss_and_correct(
    probabilities: npt.NDArray[np.float32],
    truth: npt.NDArray[np.int32],
    *,
    independent: bool = False,
) -> tuple[float, float]:
    """Sum of the cross-entropy and number of correct predictions.

    Args:
        probabilities: (n, classes).
        truth: (n,).
        independent: Whether each class has a sigmoid of its own; the loss is then the mean of the
            binary cross-entropies of all classes.
    """
    correct = float((probabilities.argmax(axis=1) == truth).sum())
    if not independent:
        of_truth = probabilities[np.arange(len(truth)), truth].astype(np.float64)
        return float(-np.log(np.maximum(of_truth, _TINY)).sum()), correct
    loss = 0.0
    for start in range(0, len(truth), _BLOCK):  # as float64, all of them would take much memory
        exact, own = (
            probabilities[start : start + _BLOCK].astype(np.float64),
            truth[start:][:_BLOCK],
        )
        right, rows = 1 - exact, np.arange(len(own))
        right[rows, own] = exact[rows, own]
        loss += float(-np.log(np.maximum(right, _EPSILON)).mean(axis=1).sum())
    return loss, correct


def class_weights(request: TrainingRequest, dataset: Dataset) -> npt.NDArray[np.float32]:
    """The weight of each class in the loss, float32 (classes,).

    ``auto`` is images / (classes * images of the class), after King and Zeng, 2001: all classes
    then have the same total weight, and the mean over the images is 1. A class that is missing
    from a table of weights has weight 1.
    """
    weights = request.class_weights
    if isinstance(weights, dict):
        return np.array([weights.get(name, 1.0) for name in dataset.classes], np.float32)
    if weights == "none":
        return np.ones(len(dataset.classes), np.float32)
    training = dataset.of("train")
    counts = Counter(example.label for example in training)
    share = len(training) / len(dataset.classes)
    return np.array([share / counts[name] for name in dataset.classes], np.float32)
