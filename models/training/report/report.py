"""What is said of a finished training: figures on every split, mistakes on one.

The figures are those of the network as it was evaluated; the mistakes are explained by the exported
files, whose agreement with the evaluation is checked on the way.
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
from models.training.exported import Exported, decoded
from models.training.promotion import HELD_OUT_ACCURACY
from models.training.report.mistakes_sheet import MOST, Explained
from models.training.report.scores import class_reports, confusion, most_wrong, split_metrics
from models.training.trained import Evaluation, Trained

CHECKED = 8
"""Held-out pictures that an export is compared on, besides the mistakes."""

_AGREEMENT = 0.1  # half-precision features move a probability by a hundredth, never by a tenth
_ORDER: tuple[Split, ...] = ("test", "validation", "train")


def held_out_split(trained: Trained) -> Split:
    """The split that says most of pictures it has not seen."""
    return next(split for split in _ORDER if split in trained.evaluations)


def figures(trained: Trained) -> dict[Split, SplitMetrics]:
    """The figures of every split that has pictures."""
    return {
        split: split_metrics(evaluation.probabilities, evaluation.truth.astype(np.int64))
        for split, evaluation in trained.evaluations.items()
    }


def manifest_metrics(trained: Trained) -> dict[str, float]:
    """What a version's manifest keeps of them."""
    found = figures(trained)
    flat = {
        f"{split}_{name}": getattr(metrics, name)
        for split, metrics in found.items()
        for name in ("accuracy", "loss", "macro_f1")
    }
    return flat | {HELD_OUT_ACCURACY: found[held_out_split(trained)].accuracy}


def provenance(trained: Trained) -> Provenance:
    """Where the version comes from, with all that is needed to make it again."""
    request = trained.request
    spec = request.model_dump(mode="json")
    return trained.provenance.model_copy(update={"seed": request.seed, "spec": spec})


def spread(count: int, most: int) -> list[int]:
    """At most so many positions, evenly over all: examples stand class by class."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, most))})


def mistakes(
    trained: Trained, exported: Exported, draft: Draft, names: Mapping[str, str], max_pixels: int
) -> tuple[list[Explained], Agreement]:
    """The surest mistakes with their heatmaps, and whether the export agrees with the evaluation.

    Args:
        trained: Whose.
        exported: The files that were made of it.
        draft: What they say of themselves.
        names: By the hash of a file, what it was called.
        max_pixels: Largest picture that is decoded.

    Raises:
        InternalError: The export answers otherwise than was measured.
    """
    held = trained.evaluations[held_out_split(trained)]
    wrong = most_wrong(held.probabilities, held.truth.astype(np.int64), MOST)
    places = [*wrong, *spread(len(held.examples), CHECKED)]
    pixels = decoded([held.examples[place] for place in places], draft, max_pixels=max_pixels)
    agreement = _agreement(exported.probabilities(pixels), held, places)
    if not wrong:
        return [], agreement
    predicted = held.probabilities[wrong].argmax(axis=1).astype(np.int32)
    grids = exported.grids(pixels[: len(wrong)], predicted)
    labels = [label.text for label in trained.labels]
    return [
        Explained(_mistake(held, place, labels, names), picture, grid)
        for place, picture, grid in zip(wrong, pixels, grids, strict=False)
    ], agreement


def report(
    trained: Trained,
    draft: Draft,
    explained: Sequence[Explained],
    agreement: Agreement,
    seconds: Mapping[str, float],
) -> TrainingReport:
    """All of it."""
    split = held_out_split(trained)
    held = trained.evaluations[split]
    labels = [label.text for label in trained.labels]
    counts = confusion(held.probabilities, held.truth.astype(np.int64))
    return TrainingReport(
        model=trained.request.model,
        network=trained.request.network,
        classes=labels,
        held_out=split,
        metrics=figures(trained),
        per_class=class_reports(counts, labels),
        confusion_matrix=ConfusionMatrix(labels=labels, counts=counts.tolist()),
        curves=list(trained.history),
        best_epochs=dict(trained.best_epochs),
        most_wrong=[one.mistake for one in explained],
        parity=draft.parity,
        agreement=agreement,
        provenance=draft.provenance,
        devices=list(trained.devices),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def _agreement(
    answers: npt.NDArray[np.float32], held: Evaluation, places: Sequence[int]
) -> Agreement:
    difference = float(np.abs(answers - held.probabilities[places]).max())
    if not difference <= _AGREEMENT:  # a NaN fails too
        raise InternalError(
            f"The exported network answers otherwise than the trained one, by {difference:.2g} in "
            "a probability. Nothing was published; please report this."
        )
    return Agreement(pictures=len(set(places)), largest_difference=difference)


def _mistake(
    held: Evaluation, place: int, labels: Sequence[str], names: Mapping[str, str]
) -> Mistake:
    example, row = held.examples[place], held.probabilities[place]
    predicted, truth = int(row.argmax()), int(held.truth[place])
    return Mistake(
        name=names.get(example.sha256, example.path.name),
        sha256=example.sha256,
        label=labels[truth],
        predicted=labels[predicted],
        probability=min(1.0, float(row[predicted])),
        label_probability=min(1.0, float(row[truth])),
    )
