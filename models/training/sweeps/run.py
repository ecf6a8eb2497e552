"""A sweep: trains each combination in turn, keeps the best version, and promotes that.

If it is killed and run again, the trainings that were done are not repeated, and the one that was
not goes on from its checkpoint, as a training of its own would.
"""

import csv
import gc
import io
import json
import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from contracts.errors import (
    DiskUnusable,
    ModelNotFound,
    NotTrainable,
    OpsinError,
    VersionInUse,
    VersionNotFound,
)
from contracts.failures import client_error
from contracts.jobs import JobError, Progress
from contracts.settings import Settings
from contracts.training.sweeps import SweepRequest, SweepResult, SweepRow, SweepTraining
from contracts.training.training_result import TrainingResult
from contracts.work import CountsEpochs, HasScopes, Work, WorkStoppedError
from models.store.manifest import write_atomically
from models.store.store import Store
from models.training import run as training

_LOG = logging.getLogger(__name__)

_ROWS = "rows.json"
_EPOCHS = "epochs.json"
_ARTIFACTS = "artifacts"
_TABLE = "trainings.csv"
_SPLITS = ("validation", "test", "train")
_TRAINED = 0.97  # the share of the time after which only the promotion is left


def run(
    work: Work, settings: Settings, until_served: training.UntilServed | None = None
) -> dict[str, Any]:
    """Run a sweep, or the rest of it.

    Args:
        work: The attempt; its request is a `SweepRequest`.
        settings: All settings.
        until_served: See `models.training.run.run`.

    Returns:
        A `SweepResult` as JSON.

    Raises:
        NotTrainable: All trainings failed; has the reason of the first.
        WorkStoppedError: The job was cancelled or lost.
    """
    request = SweepRequest.model_validate(work.request)
    sweep = _Sweep(work, settings, request, Store(settings.store_home))
    for number, planned in enumerate(request.trainings, 1):
        if number > len(sweep.rows):
            sweep.add(number, planned)
    sweep.keep_the_best()
    best = sweep.best()
    if best is None:
        error = sweep.rows[0].error
        raise NotTrainable(f"All trainings failed, the first one: {error and error.detail}")
    promoted = sweep.promote(best, until_served)
    return SweepResult(
        model=request.model,
        metric=request.metric,
        combinations=request.combinations,
        trainings=sweep.rows,
        best=best.number,
        version=promoted.version,
        promoted=promoted.promoted,
        promotion=promoted.promotion,
        serving=promoted.serving,
    ).model_dump(mode="json")


@dataclass(slots=True)
class _Sweep:
    """One call of `run`.

    Attributes:
        rows: The trainings that have ended, in order.
    """

    work: Work
    settings: Settings
    request: SweepRequest
    store: Store
    rows: list[SweepRow] = field(init=False)

    def __post_init__(self) -> None:
        with suppress(FileNotFoundError):
            saved = json.loads((self.work.folder / _ROWS).read_bytes())
            self.rows = [SweepRow.model_validate(row) for row in saved]
            return
        self.rows = []

    def add(self, number: int, planned: SweepTraining) -> None:
        """Train, remember the outcome, and remove what is not the best any more."""
        row = self._trained(number, planned)
        self.rows.append(row)
        self._write()  # before anything is deleted that would have to be made again
        self.keep_the_best()
        self.work.metrics(_metrics_row(row))
        self.work.artifact(_TABLE, "text/csv", _table(self.rows))

    def best(self) -> SweepRow | None:
        """The best training until now, the earlier of equals; None if all failed."""
        sign = -1 if self.request.metric == "loss" else 1
        done = [row for row in self.rows if row.score is not None]
        return max(done, key=lambda row: sign * (row.score or 0.0), default=None)

    def promote(self, best: SweepRow, until_served: training.UntilServed | None) -> TrainingResult:
        """Apply the promotion rule to the best version, and add its artifacts to the job."""
        request = self.request.trainings[best.number - 1].request
        part = _Part(self.work, best.number, request, _TRAINED, 1 - _TRAINED)
        for path in sorted((part.folder / _ARTIFACTS).glob("*")):
            name, _, media_type = path.name.partition("=")
            self.work.artifact(name, media_type.replace("+", "/"), path.read_bytes())
        result = training.run(part, self.settings, until_served=until_served)
        return TrainingResult.model_validate(result)

    def _trained(self, number: int, planned: SweepTraining) -> SweepRow:
        part = self._part(number, planned.request | {"promote": "never"})
        part.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        try:
            result = TrainingResult.model_validate(training.run(part, self.settings))
        except WorkStoppedError:
            raise
        except Exception as error:
            if isinstance(error, OpsinError):
                failure = error
            else:
                _LOG.exception("training %d failed", number)
                failure = client_error(error, "training")
            if failure.is_passing or isinstance(failure, DiskUnusable):
                raise
            failed = JobError(code=failure.code, detail=failure.detail)
            return SweepRow(number=number, values=planned.values, error=failed)
        finally:
            keras.utils.clear_session()
            gc.collect()
        split = next(name for name in _SPLITS if name in result.metrics)
        return SweepRow(
            number=number,
            values=planned.values,
            score=getattr(result.metrics[split], self.request.metric),
            metrics=result.metrics,
            epochs=len(result.curves),
            seconds=round(time.monotonic() - began, 3),
            version=result.version,
        )

    def _part(self, number: int, request: dict[str, Any]) -> "_Part":
        share = _TRAINED / len(self.request.trainings)
        return _Part(self.work, number, request, (number - 1) * share, share)

    def _write(self) -> None:
        rows = [row.model_dump(mode="json") for row in self.rows]
        write_atomically(self.work.folder / _ROWS, json.dumps(rows))

    def keep_the_best(self) -> None:
        """Delete all versions but the best one, and what was needed to make them."""
        best = self.best()
        for row in self.rows:
            folder = self._part(row.number, {}).folder
            if row is best:
                _remove_checkpoints(folder)
                continue
            shutil.rmtree(folder, ignore_errors=True)
            if row.version is not None:
                # In use: somebody has promoted it in the meantime.
                with suppress(VersionNotFound, VersionInUse):
                    self.store.delete(self.request.model, row.version)
                if not self._exists(row.version):
                    row.version = None
        self._write()

    def _exists(self, version: int) -> bool:
        with suppress(VersionNotFound, ModelNotFound):
            self.store.manifest(self.request.model, version)
            return True
        return False


class _Part:
    """The `contracts.work.Work` of one training of a sweep.

    Args:
        whole: The work of the sweep.
        number: From 1.
        request: The training.
        before: The share of the sweep that was done before it.
        share: Its own share.
    """

    def __init__(
        self, whole: Work, number: int, request: dict[str, Any], before: float, share: float
    ) -> None:
        self.job_id, self.attempt = f"{whole.job_id}/{number}", whole.attempt
        self.folder, self.request = whole.folder / f"{number:03}", request
        self._whole, self._before, self._share = whole, before, share
        self._epochs = 0
        self.scopes = whole.scopes if isinstance(whole, HasScopes) else frozenset[str]()

    def progress(self, progress: Progress) -> None:
        left = progress.eta_seconds
        if left is not None and progress.fraction < 1:
            # As long for every share as for the rest of this one.
            left += (
                left
                / (1 - progress.fraction)
                * (_TRAINED - self._before - self._share)
                / self._share
            )
        fraction = self._before + self._share * progress.fraction
        self._whole.progress(
            progress.model_copy(update={"fraction": fraction, "eta_seconds": left})
        )

    def metrics(self, row: dict[str, Any]) -> None:
        """The epochs are in the training's own curves; here they are only counted.

        A resumed training reports its earlier ones again, so the number is kept in the folder.
        """
        self._epochs += 1
        path, counted = self.folder / _EPOCHS, 0
        with suppress(FileNotFoundError, ValueError):
            counted = int(path.read_text())
        if self._epochs > counted and isinstance(self._whole, CountsEpochs):
            self._whole.trained(str(row["phase"]), row.get("images") or 0)
            write_atomically(path, str(self._epochs))

    def artifact(self, name: str, media_type: str, content: bytes) -> None:
        folder = self.folder / _ARTIFACTS
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}={media_type.replace('/', '+')}").write_bytes(content)

    def check(self) -> None:
        self._whole.check()


def _remove_checkpoints(folder: Path) -> None:
    """Remove what a finished training needs no more; its report and artifacts stay."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != _ARTIFACTS:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file() and path.suffix != ".json":
            path.unlink()


def _metrics_row(row: SweepRow) -> dict[str, Any]:
    """The row of a training among the job's `metrics`."""
    figures: dict[str, Any] = {"epoch": row.number, "phase": "sweep", "values": row.values}
    for split, prefix in (("train", ""), ("validation", "val_"), ("test", "test_")):
        measured = row.metrics.get(split)  # type: ignore[call-overload]
        if measured is not None:
            figures |= {f"{prefix}loss": measured.loss, f"{prefix}accuracy": measured.accuracy}
    return figures


def _table(rows: Sequence[SweepRow]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    fields = list(rows[0].values)
    figures = ("train", "validation", "test")
    names = [*fields, "score", *(f"{split}_accuracy" for split in figures), "epochs", "seconds"]
    writer.writerow(["number", *names, "version", "error"])
    for row in rows:
        values = [json.dumps(row.values[name], ensure_ascii=False) for name in fields]
        accuracies = [row.metrics[s].accuracy if s in row.metrics else "" for s in figures]
        error = "" if row.error is None else row.error.code
        score = "" if row.score is None else row.score
        version = "" if row.version is None else row.version
        figures_of = (score, *accuracies, row.epochs, row.seconds, version, error)
        writer.writerow([row.number, *values, *figures_of])
    return text.getvalue().encode()
