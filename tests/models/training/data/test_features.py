"""The precision of a frozen base."""

import errno
from pathlib import Path

import numpy as np
import pytest

from contracts.training.training_options import Augmentation
from contracts.training.trainings import TrainingRequest
from models.networks.precision import has_bfloat16
from models.training.data.features import _mapped, _namespace, compile_trunk, decoder_digest
from models.training.loop.freezing import cut_below, freeze
from models.training.loop.hardware import Hardware
from models.training.loop.network_defaults import blueprint_of
from tests.models import keras_warnings
from tests.models.training.loop.test_freezing import assembly
from tests.models.training.samples import small_request

pytestmark = keras_warnings.ignored


@pytest.mark.parametrize("network", ["efficientnet_lite0", "squeezenet"])
@pytest.mark.slow
def test_bfloat16_features_are_close_and_deterministic(network: str) -> None:
    whole, request = (
        assembly(network),
        small_request(network=network, strategy="feature_extraction"),
    )
    freeze(whole, "head", None)
    cut, blueprint = cut_below(whole.model), blueprint_of(request)
    assert cut
    pixels = np.random.default_rng(8).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    full = compile_trunk(cut.trunk, blueprint, Augmentation())(pixels).numpy()
    half = compile_trunk(cut.trunk, blueprint, Augmentation(), "bfloat16")
    first = half(pixels).numpy()
    assert first.dtype == np.float32
    assert np.linalg.norm(first - full) < 0.05 * np.linalg.norm(full)
    assert np.abs(first - full).max() > 0, "it was computed in bfloat16"
    np.testing.assert_array_equal(half(pixels).numpy(), first)
    namespaces = {_namespace(cut, blueprint, precision) for precision in ("float32", "bfloat16")}
    assert len(namespaces) == 2, "the cache must not mix them up"
    assert {layer.dtype_policy.name for layer in cut.trunk.layers} == {"float32"}


def test_features_of_another_decoder_are_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "decode.py").write_text("SHORT_SIDE = 256\n")
    before = decoder_digest(tmp_path)
    assert decoder_digest(tmp_path) == before
    (tmp_path / "decode.py").write_text("SHORT_SIDE = 224\n")
    assert decoder_digest(tmp_path) != before


def test_a_large_array_leaves_room_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "features/train/a.npy"
    with pytest.raises(OSError, match="No space left") as caught:
        _mapped((4, 8), path, 10**18)
    assert caught.value.errno == errno.ENOSPC
    assert not path.exists()
    assert _mapped((4, 8), path, 0).shape == (4, 8)


def test_mixed_precision_can_be_turned_off() -> None:
    def precision(**fields: object) -> str:
        request: TrainingRequest = small_request(network="squeezenet", **fields)
        return Hardware.of(request).feature_precision(request)

    assert precision(mixed_precision="off") == "float32"
    assert precision() == ("bfloat16" if has_bfloat16() else "float32")
