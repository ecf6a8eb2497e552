"""The report of a training: metrics of every split, and the most confident mistakes.

The metrics of the held-out split are those of the runtime that will serve, the others those of the
network in memory. The exported files are checked against the latter.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from contracts.errors import InternalError
from contracts.inference.manifest import Draft, Provenance
from contracts.training.training_result import (
    Agreement,
    ConfusionMatrix,
    Mistake,
    SplitMetrics,
    TrainingReport,
)
from models.datasets.dataset import Split
from models.training.exported import ExportedModel, decode_examples
from models.training.promotion import HELD_OUT_ACCURACY
from models.training.report.mistakes_sheet import MAX_MISTAKES, ExplainedMistake
from models.training.report.scores import (
    class_reports,
    confusion,
    most_confident_mistakes,
    split_metrics,
)
from models.training.trained import Evaluation, TrainedModel

COMPARED_IMAGES = 8
"""Held-out images on which an export is compared with the evaluation, besides the mistakes."""

# Half-precision features change a probability by about a hundredth, never by a tenth.
_MAX_DIFFERENCE = 0.1
_PREFERENCE: tuple[Split, ...] = ("test", "validation", "train")


def held_out_split(trained: TrainedModel) -> Split:
    """The split with images that influenced the training least."""
    return next(split for split in _PREFERENCE if split in trained.evaluations)


def metrics_by_split(trained: TrainedModel) -> dict[Split, SplitMetrics]:
    """The metrics of every split that has images."""
    metrics = {
        split: split_metrics(evaluation.probabilities, evaluation.truth.astype(np.int64))
        for split, evaluation in trained.evaluations.items()
    }
    if not trained.request.has_independent_outputs:
        return metrics
    # As in the curves: the loss of all sigmoids, not only of the true class's.
    return {
        split: values.model_copy(update={"loss": trained.evaluations[split].loss})
        for split, values in metrics.items()
    }


def manifest_metrics(trained: TrainedModel) -> dict[str, float]:
    """The metrics that are stored in a version's manifest."""
    metrics = metrics_by_split(trained)
    flat = {
        f"{split}_{name}": getattr(values, name)
        for split, values in metrics.items()
        for name in ("accuracy", "loss", "macro_f1")
    }
    return flat | {HELD_OUT_ACCURACY: metrics[held_out_split(trained)].accuracy}


def provenance(trained: TrainedModel) -> Provenance:
    """Where the version comes from, with everything that is needed to reproduce it."""
    request = trained.request
    spec = request.model_dump(mode="json")
    return trained.provenance.model_copy(update={"seed": request.seed, "spec": spec})


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most `limit` indices, spread evenly because examples are sorted by class."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, limit))})


def explain_mistakes(
    trained: TrainedModel,
    exported: ExportedModel,
    draft: Draft,
    names: Mapping[str, str],
    max_pixels: int,
) -> list[ExplainedMistake]:
    """The most confident mistakes with their heatmaps.

    Args:
        trained: The trained network and its evaluation.
        exported: The exported files.
        draft: The manifest of the exported files.
        names: Original file names by SHA-256.
        max_pixels: Largest image that is decoded.
    """
    held_out = trained.evaluations[held_out_split(trained)]
    truth = held_out.truth.astype(np.int64)
    wrong = most_confident_mistakes(held_out.probabilities, truth, MAX_MISTAKES)
    if not wrong:
        return []
    examples = [held_out.examples[index] for index in wrong]
    pixels = decode_examples(examples, draft, max_pixels=max_pixels)
    predicted = held_out.probabilities[wrong].argmax(axis=1).astype(np.int32)
    grids = exported.grids(pixels, predicted)
    labels = [label.text for label in trained.labels]
    return [
        ExplainedMistake(mistake_of(held_out, index, labels, names), image, grid)
        for index, image, grid in zip(wrong, pixels, grids, strict=True)
    ]


def compare_with_trained(
    trained: TrainedModel, exported: ExportedModel, draft: Draft, max_pixels: int
) -> Agreement:
    """Compare the exported files with the network's evaluation: on its surest mistakes and others.

    Raises:
        InternalError: They do not agree.
    """
    held_out = trained.evaluations[held_out_split(trained)]
    truth = held_out.truth.astype(np.int64)
    indices = [
        *most_confident_mistakes(held_out.probabilities, truth, MAX_MISTAKES),
        *evenly_spaced(len(held_out.examples), COMPARED_IMAGES),
    ]
    examples = [held_out.examples[index] for index in indices]
    pixels = decode_examples(examples, draft, max_pixels=max_pixels)
    return _agreement(exported.probabilities(pixels), held_out, indices)


def build_report(
    trained: TrainedModel,
    draft: Draft,
    mistakes: Sequence[ExplainedMistake],
    agreement: Agreement,
    seconds: Mapping[str, float],
) -> TrainingReport:
    """Put the report together."""
    split = held_out_split(trained)
    held_out = trained.evaluations[split]
    labels = [label.text for label in trained.labels]
    counts = confusion(held_out.probabilities, held_out.truth.astype(np.int64))
    return TrainingReport(
        model=trained.request.model,
        network=trained.request.network,
        classes=labels,
        held_out=split,
        metrics=metrics_by_split(trained),
        per_class=class_reports(counts, labels),
        confusion_matrix=ConfusionMatrix(labels=labels, counts=counts.tolist()),
        curves=list(trained.history),
        best_epochs=dict(trained.best_epochs),
        stopped_early={
            row["phase"]: row["epoch"] for row in trained.history if row.get("stopped_early")
        },
        most_wrong=[explained.mistake for explained in mistakes],
        parity=draft.parity,
        agreement=agreement,
        served=draft.served,
        provenance=draft.provenance,
        devices=list(trained.devices),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def mistake_of(
    held_out: Evaluation, index: int, labels: Sequence[str], names: Mapping[str, str]
) -> Mistake:
    """What is said about a wrong prediction.

    Args:
        held_out: The evaluation.
        index: The image.
        labels: Names of the classes.
        names: Original file names by SHA-256.
    """
    example, probabilities = held_out.examples[index], held_out.probabilities[index]
    predicted, truth = int(probabilities.argmax()), int(held_out.truth[index])
    return Mistake(
        name=names.get(example.sha256, example.path.name),
        sha256=example.sha256,
        label=labels[truth],
        predicted=labels[predicted],
        probability=min(1.0, float(probabilities[predicted])),
        label_probability=min(1.0, float(probabilities[truth])),
    )


def _agreement(
    probabilities: npt.NDArray[np.float32], held_out: Evaluation, indices: Sequence[int]
) -> Agreement:
    difference = float(np.abs(probabilities - held_out.probabilities[indices]).max())
    if not difference <= _MAX_DIFFERENCE:  # also if it is NaN
        raise InternalError(
            "The exported network does not agree with the trained one: a probability differs by "
            f"{difference:.2g}. Nothing was published; please report this."
        )
    return Agreement(pictures=len(set(indices)), largest_difference=difference)
