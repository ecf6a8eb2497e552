"""Whether a runtime answers as the reference does, closely enough to be let near a request."""

from dataclasses import dataclass

import numpy as np

from models.batches import Outputs
from models.runtimes.reference import Reference
from models.runtimes.runtime import Precision, Runtime


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a precision may stray.

    Attributes:
        probability: Largest difference of any probability.
        cosine: Least cosine between an embedding and the reference's.
        tie: Where the two best probabilities of the reference lie closer than this, rounding may
            decide between them.
        agreement: Least share of the other pictures on which the best class is the same.
    """

    probability: float
    cosine: float
    tie: float
    agreement: float = 1.0


# Over 500 photos bfloat16 strays by 0.029 at most and to a cosine of 0.9998 with SqueezeNet, by
# 0.076 and to 0.9957 with EfficientNet-Lite0. Their best classes agree on 97.6 and 98.2 %; where
# they do not, the two best of float32 lay within 0.045 of each other. int8 strays by 0.47 (0.064
# in the mean) and to 0.962 with SqueezeNet on 100 photos, and agrees on 92. What int8 costs in
# accuracy was measured when the version was quantized; here only a graph broken on this machine
# shall be caught.
BOUNDS: dict[Precision, Bounds] = {
    "float32": Bounds(1e-3, 0.9999, tie=2e-3),
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
    for endpoint, expected in reference.outputs.items():
        found = runtime.run(endpoint, reference.pictures)
        if found.shape != expected.shape or not np.isfinite(found).all():
            return f"{endpoint} gave values that are no numbers"
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
