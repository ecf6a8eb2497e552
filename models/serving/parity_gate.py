"""The parity gate: compares a runtime with the reference before it may answer requests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from models.export.endpoints import OUTPUTS, TARGET
from models.serving.batching import Outputs
from models.serving.reference import VECTORS, Reference, top_classes
from models.serving.runtime import Precision, Runtime


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far a precision may deviate.

    Attributes:
        probability: Largest difference of any probability.
        cosine: Smallest cosine between an embedding and the reference's.
        tie: If the two best probabilities of the reference are closer than this, rounding may
            decide between them.
        agreement: Smallest share of the other images on which the best class is the same.
        correlation: Smallest correlation of a heatmap with the reference's.
    """

    probability: float
    cosine: float
    tie: float
    agreement: float = 1.0
    correlation: float = 0.95


# Over 500 photos, bfloat16 deviates by at most 0.029 and to a cosine of 0.9998 with SqueezeNet, by
# 0.076 and to 0.9957 with EfficientNet-Lite0. The best classes agree on 97.6 and 98.2%; where they
# differ, the two best of float32 were within 0.045 of each other. int8 deviates by 0.47 (0.064 on
# average) and to 0.962 with SqueezeNet on 100 photos, and agrees on 92. The accuracy of int8 was
# measured when the version was quantized; the gate only has to catch a graph that is broken on this
# machine. Heatmaps in bfloat16 correlate with float32's by at least 0.999 over 100 photos with
# SqueezeNet, and by 0.973 over 40 with a VGG16 whose classifier is random, which is a hard case
# because nothing it has learnt stands out. In float32 they are equal to 1e-6.
TOLERANCES: dict[Precision, Tolerances] = {
    "float32": Tolerances(1e-3, 0.9999, tie=2e-3, correlation=0.9999),
    "bfloat16": Tolerances(0.1, 0.99, tie=0.05),
    "int8": Tolerances(0.7, 0.9, tie=0.2, agreement=0.75),
}


def find_deviation(runtime: Runtime, reference: Reference, precision: Precision) -> str | None:
    """Describe how a runtime's outputs deviate from the reference; None if they agree.

    Args:
        runtime: The runtime to check.
        reference: The expected outputs.
        precision: Selects the tolerances.
    """
    tolerances = TOLERANCES[precision]
    if not reference.outputs:
        return "there is nothing to compare it with"
    endpoints = [endpoint for endpoint in VECTORS if endpoint in reference.outputs]
    for endpoint, actual in runtime.answers(endpoints, reference.images).items():
        expected = reference.outputs[endpoint]
        if actual.shape != expected.shape or not np.isfinite(actual).all():
            return f"{endpoint} returned too few values, or some that are not finite"
        if endpoint == "serve":
            deviation = _probability_deviation(expected, actual, tolerances)
        else:
            deviation = _embedding_deviation(expected, actual, tolerances)
        if deviation is not None:
            return deviation
    return None


def find_probability_deviation(
    expected: Outputs, actual: Outputs, precision: Precision
) -> str | None:
    """Describe how probabilities deviate from those in float32; None if they agree.

    Args:
        expected: (n, classes) in float32.
        actual: Those of the runtime.
        precision: Selects the tolerances.
    """
    if not np.isfinite(actual).all():
        return "some probabilities are not finite"
    return _probability_deviation(expected, actual, TOLERANCES[precision])


def _probability_deviation(
    expected: Outputs, actual: Outputs, tolerances: Tolerances
) -> str | None:
    difference = float(np.abs(expected - actual).max())
    if difference > tolerances.probability:
        return f"a probability deviated by {difference:.2g}, more than {tolerances.probability:g}"
    two = np.sort(expected, axis=1)[:, -2:]
    decided = two[:, -1] - two[:, 0] >= tolerances.tie
    agree = (expected.argmax(axis=1) == actual.argmax(axis=1))[decided]
    if agree.size and agree.mean() < tolerances.agreement:
        return f"the best class agreed on only {agree.sum()} of {len(agree)} sample images"
    return None


def _embedding_deviation(expected: Outputs, actual: Outputs, tolerances: Tolerances) -> str | None:
    lengths, others = np.linalg.norm(expected, axis=1), np.linalg.norm(actual, axis=1)
    products = (expected * actual).sum(axis=1)
    # An embedding of zeros has no direction: it is like another one of zeros only.
    cosines = np.where(
        (lengths > 0) & (others > 0),
        products / np.maximum(lengths * others, 1e-30),
        lengths == others,
    )
    cosine = float(cosines.min())
    if cosine < tolerances.cosine:
        return f"an embedding deviated to a cosine of {cosine:.4f}, less than {tolerances.cosine:g}"
    return None


def find_heatmap_deviation(
    explain: Callable[[Pixels, npt.NDArray[np.int32]], dict[str, npt.NDArray[Any]]],
    endpoint: Endpoint,
    reference: Reference,
    precision: Precision,
) -> str | None:
    """Describe how heatmaps deviate from the reference; None if they agree.

    Args:
        explain: From images and classes to all outputs of the endpoint.
        endpoint: `explain` or `explain_hires`.
        reference: The expected outputs, those of the endpoint included.
        precision: Selects the tolerances.
    """
    expected, limit = reference.outputs[endpoint], TOLERANCES[precision].correlation
    classes = top_classes(reference.outputs["serve"])
    outputs = explain(reference.images, classes)
    actual = outputs[OUTPUTS[endpoint]]
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return f"{endpoint} returned too few values, or some that are not finite"
    if not np.array_equal(outputs[TARGET], classes):
        return f"{endpoint} explained other classes than the requested ones"
    lowest = min(map(_correlation, expected, actual))
    if lowest < limit:
        return f"a heatmap deviated to a correlation of {lowest:.3f}, less than {limit:g}"
    return None


def _correlation(first: Outputs, second: Outputs) -> float:
    """Pearson's correlation of two maps; if one is constant, 1 if they are equal, otherwise 0."""
    a, b = first - first.mean(), second - second.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / scale) if scale > 0 else float(np.allclose(first, second))
