"""What a runtime must answer to be let near a request."""

from collections.abc import Sequence

import numpy as np
import pytest

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from models.serving.batching import Outputs
from models.serving.parity_gate import TOLERANCES, find_deviation
from models.serving.reference import Reference
from models.serving.runtime import Precision

COUNT, CLASSES = 8, 10


class FixedRuntime:
    """A runtime with fixed answers."""

    name = "fixed"
    pads = False
    base = None

    def __init__(self, serve: Outputs, features: Outputs) -> None:
        self._answers: dict[Endpoint, Outputs] = {"serve": serve, "features": features}

    def run(self, endpoint: Endpoint, images: Pixels) -> Outputs:
        return self._answers[endpoint]

    def answers(self, endpoints: Sequence[Endpoint], images: Pixels) -> dict[Endpoint, Outputs]:
        return {endpoint: self._answers[endpoint] for endpoint in endpoints}

    def finish(self, endpoint: Endpoint, base_output: Outputs) -> Outputs:
        raise NotImplementedError

    def tune(self, endpoint: Endpoint, sizes: Sequence[int]) -> None:
        """Nothing to tune."""


def sure(probability: float) -> Outputs:
    """Each picture of a class of its own, so probable."""
    rest = (1 - probability) / (CLASSES - 1)
    answers = np.full((COUNT, CLASSES), rest, np.float32)
    answers[np.arange(COUNT), np.arange(COUNT)] = probability
    return answers


def reference(serve: Outputs) -> Reference:
    features = np.random.default_rng(1).random((COUNT, 4), np.float32)
    return Reference(np.zeros((COUNT, 2, 2, 3), np.uint8), {"serve": serve, "features": features})


@pytest.mark.parametrize("precision", TOLERANCES)
def test_equal_outputs_pass(precision: Precision) -> None:
    true = reference(sure(0.64))
    assert (
        find_deviation(
            FixedRuntime(**{str(k): v for k, v in true.outputs.items()}), true, precision
        )
        is None
    )


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize(
    "wrong", [np.roll(sure(0.64), 1, axis=1), np.full((COUNT, CLASSES), 0.1, np.float32)]
)
def test_other_classes_fail(precision: Precision, wrong: Outputs) -> None:
    true = reference(sure(0.64))
    assert (
        find_deviation(FixedRuntime(wrong, true.outputs["features"]), true, precision) is not None
    )


def test_rounding_may_decide_a_tie_only_in_bfloat16() -> None:
    near, swapped = sure(0.5), sure(0.5)
    near[0, :2], swapped[0, :2] = (0.46, 0.44), (0.44, 0.46)
    true = reference(near)
    runtime = FixedRuntime(swapped, true.outputs["features"])
    assert find_deviation(runtime, true, "bfloat16") is None
    assert find_deviation(runtime, true, "float32") is not None


def test_empty_reference_fails() -> None:
    true = reference(sure(0.9))
    empty = Reference(true.images, {})
    assert find_deviation(
        FixedRuntime(**{str(k): v for k, v in true.outputs.items()}), empty, "int8"
    )


@pytest.mark.parametrize("precision", TOLERANCES)
def test_embeddings_of_zeros_are_like_no_others(precision: Precision) -> None:
    true = reference(sure(0.64))
    features = true.outputs["features"].copy()
    features[3] = 0
    runtime = FixedRuntime(true.outputs["serve"], features)
    assert find_deviation(runtime, true, precision) is not None
    assert (
        find_deviation(
            runtime, Reference(true.images, true.outputs | {"features": features}), precision
        )
        is None
    )
