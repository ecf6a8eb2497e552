"""A training from the request to the served version: train, export, report, publish, promote.

    result = run(work, settings)

If it is killed at any time and run again with the same work, it ends with exactly one version. The
job's folder holds what has been reached: the trainer's checkpoint and, before publishing, the
report, so that nothing is trained or evaluated twice.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import InternalError, OpsinError, VersionInUse, VersionNotFound
from contracts.files import require_room
from contracts.inference.manifest import Draft, Manifest
from contracts.inference.serving import Serving
from contracts.jobs import Progress
from contracts.settings import MIB, Settings
from contracts.training.training_result import TrainingReport, TrainingResult
from contracts.training.trainings import TrainingRequest
from contracts.work import HasScopes, Work, WorkStoppedError
from models.datasets.dataset import SPLITS, Dataset, Example
from models.datasets.store import DatasetStore
from models.export.check_images import check_images
from models.export.parity import ParityError
from models.export.saved_model import REFERENCE_IMAGES, export_version
from models.images.decode import InputSpec
from models.memory.machine import memory_limit
from models.serving.reference import REFERENCE
from models.serving.runtime import RuntimeOptions
from models.serving.selection import choose_runtime
from models.store.manifest import write_atomically
from models.store.store import Store
from models.training.data.data_source import DataSource, LibrarySource, TrainingData
from models.training.data.feature_cache import FeatureCache
from models.training.exported import ExportedModel, decode_examples
from models.training.lineage import count_learned
from models.training.loop.costs import (
    PLAN,
    CostFile,
    Stage,
    costs_of,
    expected_seconds,
    stages_of,
)
from models.training.loop.network_defaults import blueprint_of, input_size_of
from models.training.loop.progress import LoggedWork, ProgressReporter
from models.training.loop.trainer import TrainingEnvironment, train
from models.training.memory import check_memory, estimate
from models.training.parent import check_beginning
from models.training.promotion import PromotionCandidate, promote_once
from models.training.publishing import find_published, publish_once
from models.training.report.artifacts import AUGMENTATION, write_artifacts
from models.training.report.augmentation_sheet import augmentation_sheet
from models.training.report.event_log import EventLog
from models.training.report.report import (
    COMPARED_IMAGES,
    build_report,
    compare_with_trained,
    evenly_spaced,
    explain_mistakes,
    held_out_split,
    manifest_metrics,
    provenance,
)
from models.training.served import BATCH, HeldOut, ServedEvaluation, evaluate_served
from models.training.trained import TrainedModel
from models.training.validation import check_model_name
from models.weights.catalog import Weights

_REPORT = "report.json"
_PUBLISHED = 0.98  # how much is done if an earlier attempt has published the version


UntilServed = Callable[[str, int, Callable[[], None]], Serving | None]
"""Waits until a version of a model answers; calls the last argument often, which may raise."""


def run(
    work: Work,
    settings: Settings,
    source: DataSource | None = None,
    until_served: UntilServed | None = None,
    start_seconds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Run a training, or the rest of it.

    Args:
        work: The attempt; its request is a `TrainingRequest` as JSON.
        settings: All settings.
        source: The data to train on; by default the dataset that the request names.
        until_served: How to wait for a promoted version; by default, nothing is waited for.
        start_seconds: Of the stages before, if the job has a process: `start` and `loading`.

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
    plan = _Plan(loads=until_served is not None, start_seconds=start_seconds)
    training = _Run(work, settings, request, Store(settings.store_home), source, plan)
    version = find_published(training.store, request.model, work.job_id)
    report = _read_report(work.folder)
    if version is None or report is None:
        version, report = training.train_and_publish(began)
    result = training.promote(version, report)
    if result.promoted and until_served is not None:
        result.serving = training.wait_until_served(result, until_served)
    training.learn_costs()
    return result.model_dump(mode="json")


@dataclass(slots=True)
class _Plan:
    """The stages of a training, and its progress through them once they are known.

    Attributes:
        loads: Whether it waits until workers have loaded the version.
        start_seconds: See `run`.
        stages: In order.
        expected: Their expected seconds.
        progress: None until the dataset has been read.
    """

    loads: bool
    start_seconds: Mapping[str, float] | None
    stages: dict[str, Stage] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    progress: ProgressReporter | None = None


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of `run`."""

    work: Work
    settings: Settings
    request: TrainingRequest
    store: Store
    source: DataSource
    plan: _Plan

    def train_and_publish(self, began: float) -> tuple[Manifest, TrainingReport]:
        """Train, export, report and publish."""
        self.work.progress(Progress(fraction=0, phase="data"))
        data = self.source.load()
        classes = len(data.dataset.classes)
        limit = memory_limit(self.settings.training_memory_mb)
        images = {split: len(data.dataset.of(split)) for split in SPLITS}
        check_memory(self.request, classes, limit, images)
        # Checked when it was queued, but those before it have published versions since.
        size = estimate(self.request, classes, images).weights
        require_room(self.settings.store_home, size, self.settings.free_disk_bytes_of_work)
        weights = Weights.of(self.settings)
        check_beginning(self.request, data.dataset.classes, self.store, weights)
        load_seconds = time.monotonic() - began
        log = EventLog(
            self.settings.event_logs_home / self.work.job_id, self.settings.free_disk_bytes_of_work
        )
        work, environment = LoggedWork(self.work, log), _environment(self.settings)
        progress = self._begin(data.dataset, load_seconds)
        if self.request.augmentation.active and not data.private:
            self._show_augmentation(data)
        trained = train(self.request, data.dataset, work, environment, progress, log=log)
        seconds = {"data": load_seconds, **trained.phase_seconds}
        with self.store.staging() as folder:
            with _timed(seconds, "export"), self.stage("export"):
                draft = self._export(trained, data, folder)
                exported = ExportedModel(folder)
                agreement = compare_with_trained(trained, exported, draft, self._max_pixels)
            with _timed(seconds, "check"):
                trained, draft = self._measure(trained, exported, draft, data, folder)
            with _timed(seconds, "report"), self.stage("report"):
                mistakes = explain_mistakes(trained, exported, draft, data.names, self._max_pixels)
                shown = None if data.private else mistakes
                write_artifacts(self.work, log, trained, shown, data.names)
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

        The version is published by now, so a cancellation ends no more than the comparison with
        the champion: it would leave a version that no finished job accounts for.
        """
        with suppress(WorkStoppedError):
            self._enter("promote")
        self._check_still_publishable(version)
        with _timed(report.seconds, "promote"):
            may_replace_people = isinstance(self.work, HasScopes) and "faces" in self.work.scopes
            candidate = PromotionCandidate(
                version, report.classes, self.request.promote, self, may_replace_people
            )
            try:
                promotion = promote_once(self.store, candidate, self.work.folder)
            except WorkStoppedError as stopped:
                if "cancelled" not in stopped.args:
                    raise
                reason = "The training was cancelled while it was compared with the champion."
                promotion = candidate.decision(False, reason, None)
        return TrainingResult(
            **report.model_dump(exclude={"seconds"}),
            seconds=_rounded(report.seconds),
            version=version.version,
            promoted=promotion.promoted,
            promotion=promotion,
            finished_at=datetime.now(UTC),
        )

    def wait_until_served(
        self, result: TrainingResult, until_served: UntilServed
    ) -> Serving | None:
        """Wait for the workers; None if the job is cancelled, which ends no more than the wait."""
        try:
            with self.stage("load"):
                return until_served(result.model, result.version, self.work.check)
        except WorkStoppedError as stopped:
            if "cancelled" not in stopped.args:
                raise
            return None

    def learn_costs(self) -> None:
        """Keep what the stages have cost, for the estimates of later trainings."""
        plan = self.plan
        if plan.progress is not None:
            self._costs.learn(plan.stages, plan.expected, plan.progress.ratios())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report a stage that has no steps."""
        if self.plan.progress is None:  # all before it was done by an earlier attempt
            self._enter(name)
            yield
            return
        with self.plan.progress.during(name):
            yield

    def _begin(self, dataset: Dataset, load_seconds: float) -> ProgressReporter:
        """Plan the stages, of which the first ones are over."""
        plan = self.plan
        starts = plan.start_seconds is not None
        plan.stages = stages_of(self.request, dataset, starts=starts, loads=plan.loads)
        plan.expected = expected_seconds(self.work.folder / PLAN, self._costs, plan.stages)
        plan.progress = ProgressReporter(self.work, plan.expected)
        if plan.start_seconds is not None:
            for stage, seconds in plan.start_seconds.items():
                plan.progress.elapsed(stage, seconds)
        plan.progress.elapsed("data", load_seconds)
        return plan.progress

    @property
    def _costs(self) -> CostFile:
        return costs_of(self.settings)

    def _measure(
        self,
        trained: TrainedModel,
        exported: ExportedModel,
        draft: Draft,
        data: TrainingData,
        folder: Path,
    ) -> tuple[TrainedModel, Draft]:
        """Replace the evaluation of the held-out images by that of the runtime that serves."""
        split = held_out_split(trained)

        def report(share: float) -> None:
            self._enter("check", share)

        held_out = HeldOut(
            split,
            trained.evaluations[split],
            self._max_pixels,
            report,
            independent=self.request.has_independent_outputs,
        )
        measured = evaluate_served(folder, draft, held_out, RuntimeOptions.of(self.settings))
        trained = replace(trained, evaluations={**trained.evaluations, split: measured.evaluation})
        if not data.private:
            self._store_reference(exported, draft, measured, folder)
        metrics = manifest_metrics(trained)
        return trained, draft.model_copy(update={"served": measured.served, "metrics": metrics})

    def _store_reference(
        self, exported: ExportedModel, draft: Draft, measured: ServedEvaluation, folder: Path
    ) -> None:
        """Let every worker compare its runtime on the images that are the hardest to agree on."""
        examples = measured.evaluation.examples
        hardest = list(measured.hardest[: REFERENCE_IMAGES // 2])
        spread = evenly_spaced(len(examples), REFERENCE_IMAGES)
        indices = list(dict.fromkeys([*hardest, *spread]))[:REFERENCE_IMAGES]
        chosen = [examples[index] for index in indices]
        images = decode_examples(chosen, draft, max_pixels=self._max_pixels)
        exported.reference(images, draft.endpoints).write(folder / REFERENCE)

    def accuracy(self, version: Manifest, labels: Sequence[str]) -> float:
        """Implements `models.training.promotion.Evaluator`."""
        examples = self._held_out()
        folder = self.store.path(version.model, version.version)
        runtime = choose_runtime(folder, version, RuntimeOptions.of(self.settings)).runtime
        correct = 0
        for start in range(0, len(examples), BATCH):
            self.work.check()
            batch = examples[start : start + BATCH]
            pixels = decode_examples(batch, version, max_pixels=self._max_pixels)
            predicted = runtime.run("serve", pixels).argmax(axis=1)
            correct += sum(
                labels[int(index)] == example.label
                for index, example in zip(predicted, batch, strict=True)
            )
        return correct / len(examples)

    def learned(self, version: Manifest) -> int | None:
        """Implements `models.training.promotion.Evaluator`."""
        library = DatasetStore.of(self.settings)
        return count_learned(self.store, library, version, self._held_out())

    def _held_out(self) -> Sequence[Example]:
        dataset = self.source.load().dataset
        return dataset.of("test") or dataset.of("validation") or dataset.of("train")

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

    def _show_augmentation(self, data: TrainingData) -> None:
        """Draw what the augmentation makes of the first training image."""
        blueprint = blueprint_of(self.request)
        size = input_size_of(self.request)
        spec = InputSpec(size, blueprint.short_side, blueprint.geometry)
        first = data.dataset.of("train")[:1]
        (pixels,) = decode_examples(first, spec, max_pixels=self._max_pixels)
        sheet = augmentation_sheet(pixels, self.request.augmentation, self.request.seed)
        self.work.artifact(AUGMENTATION, "image/png", sheet)

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

    def _enter(self, stage: str, done: float = 0.0) -> None:
        if self.plan.progress is not None:
            self.plan.progress.report(stage, done)
        else:
            self.work.progress(Progress(fraction=_PUBLISHED, phase=stage))

    @property
    def _max_pixels(self) -> int:
        return self.settings.max_image_pixels


def _environment(settings: Settings) -> TrainingEnvironment:
    return TrainingEnvironment(
        weights=Weights.of(settings),
        cache=FeatureCache(
            settings.features_home,
            settings.feature_cache_mb * MIB,
            kept_bytes=settings.min_free_disk_bytes,
        ),
        max_pixels=settings.max_image_pixels,
        threads=settings.job_threads,
        checkpoint_seconds=settings.checkpoint_seconds,
        store=Store(settings.store_home),
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
