"""A training from the request to the served version: learn, report, publish, promote.

    result = run(work, settings)

Killed at any moment and run again with the same work, it ends with the same one version. What has
been reached lies in the job's folder: the trainer's checkpoint, and before publishing the report
itself, so that nothing is learned or measured twice.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import InternalError, OpsinError, VersionInUse, VersionNotFound
from contracts.inference.manifest import Draft, Manifest
from contracts.jobs import Progress
from contracts.settings import MIB, Settings
from contracts.training.training_result import TrainingReport, TrainingResult
from contracts.training.trainings import TrainingRequest
from contracts.work import Work, WorkStoppedError
from models.export.check_images import check_pictures
from models.export.parity import ParityError
from models.export.saved_model import export_version
from models.store.manifest import write_atomically
from models.store.store import Store
from models.training.data.data_source import FromLibrary, Material, Supply
from models.training.data.feature_cache import FeatureCache
from models.training.exported import Exported, decoded
from models.training.loop.progress import LEARNING, LoggedWork
from models.training.loop.trainer import Workshop, train
from models.training.memory import check_size, memory_limit
from models.training.promotion import Newcomer, promote
from models.training.publishing import publish_once, published
from models.training.report.event_log import EventLog
from models.training.report.gallery import draw
from models.training.report.report import (
    CHECKED,
    held_out_split,
    manifest_metrics,
    mistakes,
    provenance,
    report,
    spread,
)
from models.training.trained import Trained
from models.training.validation import check_name
from models.weights.catalog import Weights

_REPORT = "report.json"
_BATCH = 32


def run(work: Work, settings: Settings, supply: Supply | None = None) -> dict[str, Any]:
    """Do a training, or what is left of it.

    Args:
        work: The attempt; its request is a `TrainingRequest` as JSON.
        settings: Where everything is.
        supply: What is learned from; left out, the dataset that the request names.

    Returns:
        A `TrainingResult` as JSON.

    Raises:
        OpsinError: It cannot be done; the message says what to change.
        WorkStoppedError: It was told to end.
    """
    began = time.monotonic()
    request = TrainingRequest.model_validate(work.request)
    check_name(request.model)
    supply = supply or FromLibrary.of(request, settings)
    run_ = _Run(work, settings, request, Store(settings.store_home), supply)
    version = published(run_.store, request.model, work.job_id)
    saved = _saved(work.folder)
    if version is None or saved is None:
        version, saved = run_.from_pictures(began)
    return run_.promoted(version, saved).model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of `run`."""

    work: Work
    settings: Settings
    request: TrainingRequest
    store: Store
    supply: Supply

    def from_pictures(self, began: float) -> tuple[Manifest, TrainingReport]:
        """Learn, report and publish."""
        self.work.progress(Progress(fraction=0, phase="data"))
        material = self.supply.load()
        check_size(
            self.request,
            len(material.dataset.classes),
            memory_limit(self.settings.training_memory_mb),
        )
        loaded = time.monotonic() - began
        log = EventLog(self.settings.event_logs_home / self.work.job_id)
        logged = LoggedWork(self.work, log)
        trained = train(self.request, material.dataset, logged, self._workshop())
        seconds = {"data": loaded, **trained.phase_seconds}
        with self.store.staging() as folder:
            self._stage("export", 0)
            with _timed(seconds, "export"):
                draft = self._exported(trained, material, folder)
            self._stage("report", 1)
            with _timed(seconds, "report"):
                exported = Exported(folder)
                pixels = self.settings.max_image_pixels
                shown, agreement = mistakes(trained, exported, draft, material.names, pixels)
                draw(self.work, log, trained, None if material.private else shown)
            told = report(trained, draft, shown, agreement, seconds)
            self._stage("publish", 2)
            self.supply.require()
            # Before publishing, so that whoever finds the version finds this too.
            write_atomically(self.work.folder / _REPORT, told.model_dump_json())
            with _timed(seconds, "publish"):
                version = publish_once(self.store, self.request.model, folder, draft)
        return version, told.model_copy(update={"seconds": _rounded(seconds)})

    def promoted(self, version: Manifest, told: TrainingReport) -> TrainingResult:
        """Ask the rule, and tell the whole.

        The version is there by now, so a cancellation comes too late: it would only leave a version
        behind that no job tells of.
        """
        with suppress(WorkStoppedError):
            self._stage("promote", 3)
        self._require_allowed(version)
        with _timed(told.seconds, "promote"):
            new = Newcomer(version, told.classes, self.request.promote, self._measured)
            promotion = promote(self.store, new)
        return TrainingResult(
            **told.model_dump(exclude={"seconds"}),
            seconds=_rounded(told.seconds),
            version=version.version,
            promoted=promotion.promoted,
            promotion=promotion,
            finished_at=datetime.now(UTC),
        )

    def _require_allowed(self, version: Manifest) -> None:
        """Take a version back whose pictures may not be learned from any more.

        Who erases them removes first the pictures and then the versions, so whatever is published
        between the two is found by one of us.
        """
        try:
            self.supply.require()
        except OpsinError:
            with suppress(VersionNotFound, VersionInUse):
                self.store.delete(version.model, version.version)
            raise

    def _exported(self, trained: Trained, material: Material, folder: Path) -> Draft:
        held = trained.evaluations[held_out_split(trained)]
        chosen = [held.examples[place] for place in spread(len(held.examples), CHECKED)]
        height, width = trained.model.inputs[0].shape[1:3]
        target = _Frame((height, width), trained.blueprint.short_side)
        samples = self.settings.home / "samples"
        try:
            return export_version(
                trained.model,
                trained.blueprint,
                folder,
                pictures=decoded(chosen, target, max_pixels=self.settings.max_image_pixels),
                kept=check_pictures(samples, target) if material.private else None,
                labels=trained.labels,
                provenance=provenance(trained),
                metrics=manifest_metrics(trained),
            )
        except ParityError as error:
            raise InternalError(f"{str(error)[0].upper()}{str(error)[1:]}.") from error

    def _measured(self, other: Manifest, labels: Sequence[str]) -> float:
        """Another version's accuracy on the pictures that this training held out."""
        dataset = self.supply.load().dataset
        examples = dataset.of("test") or dataset.of("validation") or dataset.of("train")
        exported = Exported(self.store.path(other.model, other.version))
        right = 0
        for start in range(0, len(examples), _BATCH):
            batch = examples[start : start + _BATCH]
            pixels = decoded(batch, other, max_pixels=self.settings.max_image_pixels)
            best = exported.probabilities(pixels).argmax(axis=1)
            right += sum(
                labels[int(index)] == one.label for index, one in zip(best, batch, strict=True)
            )
        return right / len(examples)

    def _workshop(self) -> Workshop:
        settings = self.settings
        return Workshop(
            weights=Weights.of(settings),
            cache=FeatureCache(settings.features_home, settings.feature_cache_mb * MIB),
            max_pixels=settings.max_image_pixels,
            threads=settings.job_threads,
            checkpoint_seconds=settings.checkpoint_seconds,
        )

    def _stage(self, phase: str, number: int) -> None:
        fraction = LEARNING + (1 - LEARNING) * number / 4
        self.work.progress(Progress(fraction=fraction, phase=phase))


@dataclass(frozen=True, slots=True)
class _Frame:
    """What pictures are made ready for before there is a version that says it."""

    input_size: tuple[int, int]
    short_side: int


def _saved(folder: Path) -> TrainingReport | None:
    """What an earlier attempt wrote before it published."""
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
