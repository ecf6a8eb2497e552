"""A training from the request to the served version: train, export, report, publish, promote.

    result = run(work, settings)

If it is killed at any time and run again with the same work, it ends with exactly one version. The
job's folder holds what has been reached: the trainer's checkpoint and, before publishing, the
report, so that nothing is trained or evaluated twice.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import InternalError, OpsinError, VersionInUse, VersionNotFound
from contracts.inference.manifest import Draft, Manifest
from contracts.jobs import Progress
from contracts.queue.messages import Pixels
from contracts.settings import MIB, Settings
from contracts.training.training_result import TrainingReport, TrainingResult
from contracts.training.trainings import TrainingRequest
from contracts.work import Work, WorkStoppedError
from models.export.check_images import check_images
from models.export.parity import ParityError
from models.export.saved_model import export_version
from models.images.decode import InputSpec
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.runtime import RuntimeOptions, RuntimeUnavailableError
from models.store.manifest import write_atomically
from models.store.store import Store
from models.training.data.data_source import DataSource, LibrarySource, TrainingData
from models.training.data.feature_cache import FeatureCache
from models.training.exported import ExportedModel, decode_examples
from models.training.loop.progress import LEARNING_SHARE, LoggedWork
from models.training.loop.trainer import TrainingEnvironment, train
from models.training.memory import check_memory, memory_limit
from models.training.promotion import PromotionCandidate, promote
from models.training.publishing import find_published, publish_once
from models.training.report.artifacts import write_artifacts
from models.training.report.event_log import EventLog
from models.training.report.report import (
    COMPARED_IMAGES,
    build_report,
    evenly_spaced,
    explain_mistakes,
    held_out_split,
    manifest_metrics,
    provenance,
)
from models.training.trained import TrainedModel
from models.training.validation import check_model_name
from models.weights.catalog import Weights

_REPORT = "report.json"
_BATCH = 32
_STAGES = ("export", "report", "publish", "promote")


def run(work: Work, settings: Settings, source: DataSource | None = None) -> dict[str, Any]:
    """Run a training, or the rest of it.

    Args:
        work: The attempt; its request is a `TrainingRequest` as JSON.
        settings: All settings.
        source: The data to train on; by default the dataset that the request names.

    Returns:
        A `TrainingResult` as JSON.

    Raises:
        OpsinError: The training cannot be done; the message says what to change.
        WorkStoppedError: The job was cancelled or lost.
    """
    began = time.monotonic()
    request = TrainingRequest.model_validate(work.request)
    check_model_name(request.model)
    source = source or LibrarySource.of(request, settings)
    training = _Run(work, settings, request, Store(settings.store_home), source)
    version = find_published(training.store, request.model, work.job_id)
    report = _read_report(work.folder)
    if version is None or report is None:
        version, report = training.train_and_publish(began)
    return training.promote(version, report).model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of `run`."""

    work: Work
    settings: Settings
    request: TrainingRequest
    store: Store
    source: DataSource

    def train_and_publish(self, began: float) -> tuple[Manifest, TrainingReport]:
        """Train, export, report and publish."""
        self.work.progress(Progress(fraction=0, phase="data"))
        data = self.source.load()
        classes = len(data.dataset.classes)
        check_memory(self.request, classes, memory_limit(self.settings.training_memory_mb))
        load_seconds = time.monotonic() - began
        log = EventLog(self.settings.event_logs_home / self.work.job_id)
        environment = _environment(self.settings)
        trained = train(self.request, data.dataset, LoggedWork(self.work, log), environment)
        seconds = {"data": load_seconds, **trained.phase_seconds}
        with self.store.staging() as folder:
            self._enter("export")
            with _timed(seconds, "export"):
                draft = self._export(trained, data, folder)
            self._enter("report")
            with _timed(seconds, "report"):
                mistakes, agreement = explain_mistakes(
                    trained, ExportedModel(folder), draft, data.names, self._max_pixels
                )
                write_artifacts(self.work, log, trained, None if data.private else mistakes)
            report = build_report(trained, draft, mistakes, agreement, seconds)
            self._enter("publish")
            self.source.check_publishable()
            # Before publishing, so that a published version always has its report.
            write_atomically(self.work.folder / _REPORT, report.model_dump_json())
            with _timed(seconds, "publish"):
                version = publish_once(self.store, self.request.model, folder, draft)
        return version, report.model_copy(update={"seconds": _rounded(seconds)})

    def promote(self, version: Manifest, report: TrainingReport) -> TrainingResult:
        """Apply the promotion rule and build the result.

        The version is published by now, so a cancellation is ignored: it would only leave a version
        that no finished job accounts for.
        """
        with suppress(WorkStoppedError):
            self._enter("promote")
        self._check_still_publishable(version)
        with _timed(report.seconds, "promote"):
            candidate = PromotionCandidate(version, report.classes, self.request.promote, self)
            promotion = promote(self.store, candidate)
        return TrainingResult(
            **report.model_dump(exclude={"seconds"}),
            seconds=_rounded(report.seconds),
            version=version.version,
            promoted=promotion.promoted,
            promotion=promotion,
            finished_at=datetime.now(UTC),
        )

    def accuracy(self, version: Manifest, labels: Sequence[str]) -> float:
        """Implements `models.training.promotion.Evaluator`."""
        dataset = self.source.load().dataset
        examples = dataset.of("test") or dataset.of("validation") or dataset.of("train")
        probabilities = self._served_function(version)
        correct = 0
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            pixels = decode_examples(batch, version, max_pixels=self._max_pixels)
            predicted = probabilities(pixels).argmax(axis=1)
            correct += sum(
                labels[int(index)] == example.label
                for index, example in zip(predicted, batch, strict=True)
            )
        return correct / len(examples)

    def _served_function(self, version: Manifest) -> Callable[[Pixels], npt.NDArray[np.float32]]:
        """A version's probabilities: in int8 if it is quantized, unless OpenVINO is missing."""
        folder = self.store.path(version.model, version.version)
        if version.precision == "int8":
            options = RuntimeOptions("openvino", "int8", self.settings.worker_threads)
            with suppress(RuntimeUnavailableError):
                return partial(OpenVinoRuntime(folder, version, "int8", options).run, "serve")
        return ExportedModel(folder).probabilities

    def _check_still_publishable(self, version: Manifest) -> None:
        """Delete the version again if its images may not be used any more.

        An erasure first removes the images and then the versions, so a version that is published
        in between is found either by the erasure or here.
        """
        try:
            self.source.check_publishable()
        except OpsinError:
            with suppress(VersionNotFound, VersionInUse):
                self.store.delete(version.model, version.version)
            raise

    def _export(self, trained: TrainedModel, data: TrainingData, folder: Path) -> Draft:
        held_out = trained.evaluations[held_out_split(trained)].examples
        compared = [held_out[index] for index in evenly_spaced(len(held_out), COMPARED_IMAGES)]
        height, width = trained.model.inputs[0].shape[1:3]
        spec = InputSpec((height, width), trained.blueprint.short_side, trained.blueprint.geometry)
        samples = self.settings.home / "samples"
        try:
            return export_version(
                trained.model,
                trained.blueprint,
                folder,
                images=decode_examples(compared, spec, max_pixels=self._max_pixels),
                stored_images=check_images(samples, spec) if data.private else None,
                labels=trained.labels,
                provenance=provenance(trained),
                metrics=manifest_metrics(trained),
            )
        except ParityError as error:
            raise InternalError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error

    def _enter(self, stage: str) -> None:
        share = _STAGES.index(stage) / len(_STAGES)
        fraction = LEARNING_SHARE + (1 - LEARNING_SHARE) * share
        self.work.progress(Progress(fraction=fraction, phase=stage))

    @property
    def _max_pixels(self) -> int:
        return self.settings.max_image_pixels


def _environment(settings: Settings) -> TrainingEnvironment:
    return TrainingEnvironment(
        weights=Weights.of(settings),
        cache=FeatureCache(settings.features_home, settings.feature_cache_mb * MIB),
        max_pixels=settings.max_image_pixels,
        threads=settings.job_threads,
        checkpoint_seconds=settings.checkpoint_seconds,
    )


def _read_report(folder: Path) -> TrainingReport | None:
    """The report that an earlier attempt wrote before it published."""
    try:
        return TrainingReport.model_validate_json((folder / _REPORT).read_bytes())
    except FileNotFoundError:
        return None


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[phase] = time.monotonic() - began


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {phase: round(value, 3) for phase, value in seconds.items()}
