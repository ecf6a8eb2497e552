"""The evaluation job: a version's figures on a dataset, and its comparison with another version.

Everything is measured by the runtime that serves, on images decoded as those of requests.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import NotTrainable
from contracts.inference.evaluation import (
    ClassEvaluation,
    Comparison,
    EvaluationRequest,
    EvaluationResult,
    EvaluationWarning,
)
from contracts.inference.manifest import Manifest
from contracts.jobs import Progress
from contracts.queue.messages import Pixels
from contracts.settings import Settings
from contracts.training.training_result import ConfusionMatrix, Mistake, SplitMetrics
from contracts.work import Work
from models.datasets.dataset import Example
from models.datasets.store import DatasetStore
from models.evaluation.comparison import compare, share_interval
from models.evaluation.selection import Selection, check_classes, check_measurable, select
from models.faces.portraits import PortraitReader
from models.serving.runtime import Runtime, RuntimeOptions
from models.serving.selection import choose_runtime
from models.store.labels import ClassIndices, Label, read_labels
from models.store.store import Store
from models.training.exported import ExportedModel, decode_examples
from models.training.lineage import count_learned
from models.training.loop.phase import loss_and_correct
from models.training.report.artifacts import CONFUSION_MATRIX, MISTAKES
from models.training.report.confusion_chart import confusion_chart
from models.training.report.mistakes_sheet import MAX_MISTAKES, ExplainedMistake, mistakes_sheet
from models.training.report.predictions import PREDICTIONS, predictions_table
from models.training.report.report import mistake_of
from models.training.report.scores import (
    Counts,
    class_reports,
    confusion,
    most_confident_mistakes,
    split_metrics,
)
from models.training.trained import Evaluation

_BATCH = 32
_DRAWN = 0.95  # the share of the time after which only charts are left

Probabilities = npt.NDArray[np.float32]


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Measure a version.

    Args:
        work: Its request is an `EvaluationRequest`.

    Returns:
        An `EvaluationResult` as JSON.

    Raises:
        NotTrainable: The version has no classifier, or the dataset none of its classes.
        ModelNotFound: There is no such model.
        VersionNotFound: It has no such version.
        DatasetNotFound: There is no such dataset.
        WorkStoppedError: The job was cancelled.
    """
    began = time.monotonic()
    request = EvaluationRequest.model_validate(work.request)
    work.progress(Progress(fraction=0, phase="data"))
    library, store = DatasetStore.of(settings), Store(settings.store_home)
    store.manifest(request.model, store.resolve(request.model, request.version))
    dataset = library.load(request.dataset_id)
    measured = _Version.of(store, request.model, request.version)
    against = request.against and _Version.of(store, request.model, request.against)
    selection = select(dataset, request.split, measured.labels)
    measurement = _Measurement(work, settings, selection, 2 if against else 1)
    runtime, answers = measurement.answers(measured)
    answers, refused = measurement.without_refused(measured, answers)
    selection = measurement.selection
    evaluation = _evaluation(measured, selection, answers)
    comparison = None
    if against:
        comparison = _compare(against, measurement, answers)
    names = _names(library, request.dataset_id)
    mistakes = _draw(measurement, measured, evaluation, names)
    labels = [label.text for label in measured.labels]
    table = predictions_table(evaluation, labels, names)
    work.artifact(PREDICTIONS, "text/csv", table)
    seen = count_learned(store, library, measured.manifest, selection.examples)
    return EvaluationResult(
        model=request.model,
        version=measured.manifest.version,
        network=measured.manifest.network,
        runtime=runtime,
        dataset_id=request.dataset_id,
        dataset_digest=dataset.digest,
        split=selection.split,
        pictures=len(selection.examples),
        **_figures(measured, evaluation),
        most_wrong=mistakes,
        unknown_classes=dict(selection.unknown),
        refused=refused,
        seen_in_training=seen,
        comparison=comparison,
        warnings=_warnings(selection, measured.labels, seen, refused),
        seconds=round(time.monotonic() - began, 3),
    ).model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class _Version:
    """A version in the store."""

    manifest: Manifest
    folder: Path
    labels: tuple[Label, ...]

    @classmethod
    def of(cls, store: Store, model: str, number: int) -> "_Version":
        manifest = store.manifest(model, store.resolve(model, number))
        check_measurable(manifest)
        folder = store.path(model, manifest.version)
        return cls(manifest, folder, read_labels(folder))

    @property
    def is_independent(self) -> bool:
        """Whether each class has a sigmoid of its own."""
        spec = self.manifest.provenance.spec or {}
        head = spec.get("head")
        if isinstance(head, dict):
            return head.get("output") == "independent"
        return head is None and spec.get("network") == "cnn_face"


@dataclass(slots=True)
class _Measurement:
    """Runs versions on the selected images.

    Attributes:
        versions: How many will be measured.
        done: How many have been measured.
        reader: Reads images as the versions take them.
    """

    work: Work
    settings: Settings
    selection: Selection
    versions: int
    done: int = 0
    reader: PortraitReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = PortraitReader(self.settings)

    def answers(self, version: _Version) -> tuple[str, Probabilities]:
        """The name of the runtime, and its probabilities for all images: (n, classes).

        Those of an image for which a request would be refused are not numbers.
        """
        self._report("model", 0)
        options = RuntimeOptions.of(self.settings)
        runtime = choose_runtime(version.folder, version.manifest, options).runtime
        rows = self._rows(runtime, version)
        self.done += 1
        return runtime.name, rows

    def without_refused(
        self, version: _Version, answers: Probabilities
    ) -> tuple[Probabilities, dict[str, int]]:
        """Leave out the images that the measured version refuses.

        Returns:
            The answers for the others, and the number of those left out by error code.

        Raises:
            NotTrainable: None is left.
        """
        answered = ~np.isnan(answers[:, 0])
        if answered.all():
            return answers, {}
        examples = self.selection.examples
        left_out = [example for example, kept in zip(examples, answered, strict=True) if not kept]
        errors = self.reader.read(left_out, version.manifest)
        refused = Counter(error.code for error in errors if not isinstance(error, Example))
        if not answered.any():
            raise NotTrainable(
                "The version was trained on faces, and no image shows one face, so nothing can be "
                f"measured: {', '.join(f'{code} {count}' for code, count in refused.items())}."
            )
        self.selection = self.selection.only(answered.tolist())
        return answers[answered], dict(sorted(refused.items()))

    def pixels(self, examples: Sequence[Example], manifest: Manifest) -> Pixels:
        """Images decoded as those of requests: uint8 (n, h, w, 3)."""
        return decode_examples(examples, manifest, max_pixels=self.settings.max_image_pixels)

    def _rows(self, runtime: Runtime, version: _Version) -> Probabilities:
        examples = self.selection.examples
        rows = np.full((len(examples), len(version.labels)), np.nan, np.float32)
        for start in range(0, len(examples), _BATCH):
            self._report("evaluate", start / len(examples))
            batch = self.reader.read(examples[start : start + _BATCH], version.manifest)
            readable = {i: e for i, e in enumerate(batch, start) if isinstance(e, Example)}
            if readable:
                pixels = self.pixels(list(readable.values()), version.manifest)
                rows[list(readable)] = runtime.run("serve", pixels)
        return rows

    def _report(self, phase: str, share: float) -> None:
        self.work.check()
        fraction = _DRAWN * (self.done + share) / self.versions
        self.work.progress(Progress(fraction=fraction, phase=phase))


def _evaluation(version: _Version, selection: Selection, answers: Probabilities) -> Evaluation:
    truth = np.array(selection.truth, np.int32)
    loss, correct = loss_and_correct(answers, truth, independent=version.is_independent)
    count = len(truth)
    return Evaluation(selection.examples, truth, answers, loss / count, correct / count)


def _figures(version: _Version, evaluation: Evaluation) -> dict[str, Any]:
    truth = evaluation.truth.astype(np.int64)
    metrics = split_metrics(evaluation.probabilities, truth)
    if version.is_independent:
        metrics = metrics.model_copy(update={"loss": evaluation.loss})
    counts = confusion(evaluation.probabilities, truth)
    labels = [label.text for label in version.labels]
    right = np.diag(counts)
    return {
        "classes": labels,
        "accuracy": metrics.accuracy,
        "accuracy_interval": share_interval(int(right.sum()), len(truth)),
        "metrics": SplitMetrics(**metrics.model_dump()),
        "per_class": [
            ClassEvaluation(
                **report.model_dump(),
                recall_interval=share_interval(int(right[index]), report.support),
            )
            for index, report in enumerate(class_reports(counts, labels))
        ],
        "confusion_matrix": ConfusionMatrix(labels=labels, counts=counts.tolist()),
    }


def _compare(against: _Version, measurement: _Measurement, answers: Probabilities) -> Comparison:
    """Compare the versions on the images whose classes both have."""
    selection = measurement.selection
    runtime, others = measurement.answers(against)
    indices = ClassIndices(against.labels)
    found = [indices.find(example.label) for example in selection.examples]
    truth = np.array([-1 if index is None else index for index in found])
    if not (truth >= 0).any():
        check_classes({example.label for example in selection.examples}, against.labels)
    common = (truth >= 0) & ~np.isnan(others[:, 0])
    if not common.any():
        raise NotTrainable(f"Version {against.manifest.version} answers for none of the images.")
    right = answers.argmax(axis=1) == np.array(selection.truth)
    return compare(
        right[common],
        (others.argmax(axis=1) == truth)[common],
        number=against.manifest.version,
        runtime=runtime,
    )


def _names(library: DatasetStore, dataset_id: str) -> dict[str, str]:
    """The original file names by SHA-256."""
    files = library.listing(dataset_id).files
    return {f.sha256: f.path for f in files if f.sha256 and f.status == "admitted"}


def _draw(
    measurement: _Measurement,
    version: _Version,
    evaluation: Evaluation,
    names: Mapping[str, str],
) -> list[Mistake]:
    """Add the charts to the job; returns the most confident mistakes."""
    work, selection = measurement.work, measurement.selection
    work.progress(Progress(fraction=_DRAWN, phase="report"))
    labels = [label.text for label in version.labels]
    truth = evaluation.truth.astype(np.int64)
    counts = confusion(evaluation.probabilities, truth)
    split = "" if selection.split == "all" else selection.split
    work.artifact(CONFUSION_MATRIX, "image/png", confusion_chart(*_shown(counts, labels), split))
    wrong = most_confident_mistakes(evaluation.probabilities, truth, MAX_MISTAKES)
    mistakes = [mistake_of(evaluation, index, labels, names) for index in wrong]
    work.check()
    if "explain" in version.manifest.endpoints:
        sheet = mistakes_sheet(_explained(measurement, version, evaluation, wrong, mistakes))
        work.artifact(MISTAKES, "image/png", sheet)
    return mistakes


def _shown(counts: Counts, labels: Sequence[str]) -> tuple[Counts, list[str]]:
    """The part of the matrix that has images, so that it is readable for 1,000 classes too."""
    used = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    return counts[np.ix_(used, used)], [labels[int(index)] for index in used]


def _explained(
    measurement: _Measurement,
    version: _Version,
    evaluation: Evaluation,
    wrong: Sequence[int],
    mistakes: Sequence[Mistake],
) -> list[ExplainedMistake]:
    if not mistakes:
        return []
    read = measurement.reader.read([evaluation.examples[i] for i in wrong], version.manifest)
    pixels = measurement.pixels([e for e in read if isinstance(e, Example)], version.manifest)
    predicted = evaluation.probabilities[list(wrong)].argmax(axis=1).astype(np.int32)
    grids = ExportedModel(version.folder).grids(pixels, predicted)
    return [ExplainedMistake(*parts) for parts in zip(mistakes, pixels, grids, strict=True)]


def _warnings(
    selection: Selection, labels: Sequence[Label], seen: int | None, refused: Mapping[str, int]
) -> list[EvaluationWarning]:
    warnings = []
    if selection.unknown:
        count, names = sum(selection.unknown.values()), ", ".join(list(selection.unknown)[:5])
        detail = f"{count:,} images were left out: the version has no class {names}."
        warnings.append(EvaluationWarning(code="unknown_classes", detail=detail))
    if refused:
        count, codes = sum(refused.values()), ", ".join(refused)
        detail = f"{count:,} images were left out, as a request would be refused: {codes}."
        warnings.append(EvaluationWarning(code="refused", detail=detail))
    missing = len(labels) - len(set(selection.truth))
    if missing:
        detail = f"There are no images of {missing:,} of the version's {len(labels):,} classes."
        warnings.append(EvaluationWarning(code="missing_classes", detail=detail))
    if seen:
        detail = (
            f"The version was trained on {seen:,} of these images, so they say little about new "
            "ones."
        )
        warnings.append(EvaluationWarning(code="seen_in_training", detail=detail))
    return warnings
