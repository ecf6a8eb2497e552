"""Evaluates a new version by the runtime that will serve it, on all its held-out images.

The network in memory and the SavedModel compute in float32. Requests are answered in the fastest
precision, whose answers differ, so figures of the former would promise what nobody gets. If a
precision differs too much, it is rejected and the next one evaluated; the manifest says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Draft, Served
from contracts.queue.messages import Pixels
from models.datasets.dataset import Example, Split
from models.serving.parity_gate import find_probability_deviation
from models.serving.runtime import Precision, Runtime, RuntimeOptions
from models.serving.selection import choose_runtime
from models.training.exported import decode_examples
from models.training.loop.phase import loss_and_correct
from models.training.trained import Evaluation

BATCH = 32
MAX_INT8_LOSS = 0.005
"""The share of held-out images that int8 may lose; one image in any case."""
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ServedEvaluation:
    """The answers of the runtime that serves.

    Attributes:
        evaluation: As the training's, with these answers.
        served: The comparison with the training's.
        hardest: Indices of the images, those first whose answers differed most in any precision.
    """

    evaluation: Evaluation
    served: Served
    hardest: Sequence[int]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The images that a version is evaluated on.

    Attributes:
        split: Their name.
        evaluation: The trained network's answers in float32.
        max_pixels: Largest image that is decoded.
        report: Called with the share that is done; may raise.
        independent: Whether each class has a sigmoid of its own.
    """

    split: Split
    evaluation: Evaluation
    max_pixels: int
    report: Callable[[float], None]
    independent: bool = False


def evaluate_served(
    folder: Path, draft: Draft, held_out: HeldOut, options: RuntimeOptions
) -> ServedEvaluation:
    """Evaluate an exported version by the runtime that a worker with these options would choose.

    Args:
        folder: The version's, not published yet.
        draft: Its manifest so far.
        held_out: What to evaluate it on.
        options: The worker's.
    """
    expected = held_out.evaluation.probabilities
    rejected: dict[str, str] = {}
    differences = np.zeros(len(expected), np.float32)
    while True:
        so_far = _served(held_out, "", expected, rejected)
        runtime = choose_runtime(folder, draft.model_copy(update={"served": so_far}), options)
        actual = answers(runtime.runtime, draft, held_out)
        differences = np.fmax(differences, np.abs(actual - expected).max(axis=1))
        deviation = _deviation(runtime.runtime, held_out, actual)
        if deviation is None:
            break
        images = f"on its {len(expected)} {held_out.split} images"
        rejected[_precision_of(runtime.runtime)] = f"{deviation}, {images}"
    return ServedEvaluation(
        _evaluation(held_out, actual),
        _served(held_out, runtime.runtime.name, actual, rejected),
        np.argsort(-differences, kind="stable").tolist(),
    )


def answers(runtime: Runtime, draft: Draft, held_out: HeldOut) -> Probabilities:
    """The runtime's probabilities for all images, in order: (n, classes)."""
    examples = held_out.evaluation.examples
    rows = []
    for start in range(0, len(examples), BATCH):
        held_out.report(start / len(examples))
        pixels = _decoded(examples[start : start + BATCH], draft, held_out.max_pixels)
        rows.append(runtime.run("serve", pixels))
    held_out.report(1.0)
    return np.concatenate(rows)


def _decoded(examples: Sequence[Example], draft: Draft, max_pixels: int) -> Pixels:
    return decode_examples(examples, draft, max_pixels=max_pixels)


def _deviation(runtime: Runtime, held_out: HeldOut, actual: Probabilities) -> str | None:
    precision = _precision_of(runtime)
    if precision == "float32":
        return None  # there is nothing more exact, and the parity gate has found it sound
    deviation = find_probability_deviation(held_out.evaluation.probabilities, actual, precision)
    if deviation is None and precision == "int8":
        return _accuracy_loss(held_out, actual)
    return deviation


def _accuracy_loss(held_out: HeldOut, actual: Probabilities) -> str | None:
    """Describe how much less accurate int8 is, if that is too much.

    The bounds of the gate are wide for int8, since a quantized version was measured when it was
    made. This one was not: its ranges are those of the published base.
    """
    before, after = held_out.evaluation.accuracy, _evaluation(held_out, actual).accuracy
    lost = round((before - after) * len(actual))
    if lost <= max(1, MAX_INT8_LOSS * len(actual)):
        return None
    return f"the accuracy fell from {before:.2%} to {after:.2%}"


def _precision_of(runtime: Runtime) -> Precision:
    return cast("Precision", runtime.name.rpartition("-")[2])


def _evaluation(held_out: HeldOut, probabilities: Probabilities) -> Evaluation:
    evaluation = held_out.evaluation
    count = len(evaluation.truth)
    loss, correct = loss_and_correct(
        probabilities, evaluation.truth, independent=held_out.independent
    )
    return replace(
        evaluation, probabilities=probabilities, loss=loss / count, accuracy=correct / count
    )


def _served(
    held_out: HeldOut, runtime: str, probabilities: Probabilities, rejected: dict[str, str]
) -> Served:
    expected = held_out.evaluation.probabilities
    return Served(
        runtime=runtime,
        split=held_out.split,
        pictures=len(expected),
        accuracy=_evaluation(held_out, probabilities).accuracy,
        float32_accuracy=held_out.evaluation.accuracy,
        largest_difference=float(np.abs(probabilities - expected).max()),
        changed=int((probabilities.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        rejected=rejected,
    )
