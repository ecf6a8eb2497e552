"""Whether a runtime answers as the reference does, closely enough to be let near a request."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from models.export.signatures import OUTPUTS, TARGET
from models.serving.batching import Outputs
from models.serving.reference import VECTORS, Reference, top_classes
from models.serving.runtime import Precision, Runtime


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a precision may stray.

    Attributes:
        probability: Largest difference of any probability.
        cosine: Least cosine between an embedding and the reference's.
        tie: Where the two best probabilities of the reference lie closer than this, rounding may
            decide between them.
        agreement: Least share of the other pictures on which the best class is the same.
        likeness: Least correlation of a heatmap with the reference's.
    """

    probability: float
    cosine: float
    tie: float
    agreement: float = 1.0
    likeness: float = 0.95


# Over 500 photos bfloat16 strays by 0.029 at most and to a cosine of 0.9998 with SqueezeNet, by
# 0.076 and to 0.9957 with EfficientNet-Lite0. Their best classes agree on 97.6 and 98.2 %; where
# they do not, the two best of float32 lay within 0.045 of each other. int8 strays by 0.47 (0.064
# in the mean) and to 0.962 with SqueezeNet on 100 photos, and agrees on 92. What int8 costs in
# accuracy was measured when the version was quantized; here only a graph broken on this machine
# shall be caught. Heatmaps in bfloat16 have a correlation of 0.999 at least with float32's over 100
# photos of SqueezeNet, and of 0.973 over 40 of a VGG16 whose classifier is random: a hard case, for
# nothing that the network has learnt stands out there. In float32 they are equal to 1e-6.
BOUNDS: dict[Precision, Bounds] = {
    "float32": Bounds(1e-3, 0.9999, tie=2e-3, likeness=0.9999),
    "bfloat16": Bounds(0.1, 0.99, tie=0.05),
    "int8": Bounds(0.7, 0.9, tie=0.2, agreement=0.75),
}


def complaint(runtime: Runtime, reference: Reference, precision: Precision) -> str | None:
    """What is wrong with a runtime's answers; None if nothing is.

    Args:
        runtime: The one to judge.
        reference: What it is held to.
        precision: Whose bounds hold.
    """
    bounds = BOUNDS[precision]
    if not reference.outputs:
        return "there is nothing to compare it with"
    for endpoint in VECTORS:
        expected = reference.outputs.get(endpoint)
        if expected is None:
            continue
        found = runtime.run(endpoint, reference.pictures)
        if found.shape != expected.shape or not np.isfinite(found).all():
            return f"{endpoint} gave too few values, or some that are no numbers"
        if endpoint == "serve":
            strays = _probabilities(expected, found, bounds)
        else:
            strays = _embeddings(expected, found, bounds)
        if strays is not None:
            return strays
    return None


def _probabilities(expected: Outputs, found: Outputs, bounds: Bounds) -> str | None:
    difference = float(np.abs(expected - found).max())
    if difference > bounds.probability:
        return f"a probability strayed by {difference:.2g}, more than {bounds.probability:g}"
    two = np.sort(expected, axis=1)[:, -2:]
    decided = two[:, -1] - two[:, 0] >= bounds.tie
    agree = (expected.argmax(axis=1) == found.argmax(axis=1))[decided]
    if agree.size and agree.mean() < bounds.agreement:
        return f"the best class agreed on {agree.sum()} of {len(agree)} sample pictures only"
    return None


def _embeddings(expected: Outputs, found: Outputs, bounds: Bounds) -> str | None:
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    products = (expected * found).sum(axis=1)
    # An embedding of zeros has no direction to stray from.
    cosine = float(np.where(lengths > 0, products / np.maximum(lengths, 1e-30), 1).min())
    if cosine < bounds.cosine:
        return f"an embedding strayed to a cosine of {cosine:.4f}, less than {bounds.cosine:g}"
    return None


def complaint_of_maps(
    explain: Callable[[Pixels, npt.NDArray[np.int32]], dict[str, npt.NDArray[Any]]],
    endpoint: Endpoint,
    reference: Reference,
    precision: Precision,
) -> str | None:
    """What is wrong with heatmaps; None if nothing is.

    Args:
        explain: From pictures and classes to all that the endpoint tells.
        endpoint: Which one it is.
        reference: What it is held to; it tells of the endpoint.
        precision: Whose bounds hold.
    """
    expected, likeness = reference.outputs[endpoint], BOUNDS[precision].likeness
    classes = top_classes(reference.outputs["serve"])
    told = explain(reference.pictures, classes)
    found = told[OUTPUTS[endpoint]]
    if found.shape != expected.shape or not np.isfinite(found).all():
        return f"{endpoint} gave too few values, or some that are no numbers"
    if not np.array_equal(told[TARGET], classes):
        return f"{endpoint} explained other classes than it was asked for"
    worst = min(map(_likeness, expected, found))
    if worst < likeness:
        return f"a heatmap strayed to a correlation of {worst:.3f}, less than {likeness:g}"
    return None


def _likeness(one: Outputs, other: Outputs) -> float:
    """The cosine between two maps less their means; of flat ones, whether both are, and equal."""
    a, b = one - one.mean(), other - other.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / scale) if scale > 0 else float(np.allclose(one, other))
