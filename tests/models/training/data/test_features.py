"""What a frozen base computes in: half the time where the processor can, and never mixed up."""

import numpy as np
import pytest

from contracts.training.trainings import TrainingRequest
from models.networks.precision import has_bfloat16
from models.training.data.features import _space, compiled
from models.training.loop.freezing import cut_below, freeze
from models.training.loop.hardware import Hardware
from models.training.loop.recipe import blueprint_of
from tests.models import keras_warnings
from tests.models.training.loop.test_freezing import assembly
from tests.models.training.material import asked

pytestmark = keras_warnings.ignored


@pytest.mark.parametrize("network", ["efficientnet_lite0", "squeezenet"])
@pytest.mark.slow
def test_features_in_bfloat16_are_nearly_the_same_and_always_the_same(network: str) -> None:
    whole, request = assembly(network), asked(network=network, strategy="feature_extraction")
    freeze(whole, "head", None)
    cut, blueprint = cut_below(whole.model), blueprint_of(request)
    assert cut
    pixels = np.random.default_rng(8).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    full = compiled(cut.trunk, blueprint, "nearest")(pixels).numpy()
    half = compiled(cut.trunk, blueprint, "nearest", "bfloat16")
    first = half(pixels).numpy()
    assert first.dtype == np.float32
    assert np.linalg.norm(first - full) < 0.05 * np.linalg.norm(full)
    assert np.abs(first - full).max() > 0, "it was computed otherwise"
    np.testing.assert_array_equal(half(pixels).numpy(), first)
    spaces = {_space(cut, blueprint, one) for one in ("float32", "bfloat16")}
    assert len(spaces) == 2, "neither is ever taken for the other"
    assert {layer.dtype_policy.name for layer in cut.trunk.layers} == {"float32"}


def test_it_can_be_turned_off() -> None:
    def chosen(**more: object) -> str:
        request: TrainingRequest = asked(network="squeezenet", **more)
        return Hardware.of(request).learning_features(request)

    assert chosen(mixed_precision="off") == "float32"
    assert chosen() == ("bfloat16" if has_bfloat16() else "float32")
