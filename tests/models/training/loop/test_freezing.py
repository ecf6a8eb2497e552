from typing import Any

import keras
import numpy as np
import pytest

from contracts.errors import ValidationFailed
from models.networks.architecture import ARCHITECTURES
from models.training.loop.assembly import Assembly, build_network
from models.training.loop.freezing import cut_below, freeze
from models.training.loop.network_defaults import NETWORK_DEFAULTS
from tests.models.training.samples import small_request

TUNED = ["efficientnet_lite0", "squeezenet", "vgg16"]


def assembly(network: str, **fields: Any) -> Assembly:
    """The network with random instead of published weights."""
    request = small_request(network=network, strategy="fine_tuning", image_size=64, **fields)
    model = build_network(request, 3)
    base = keras.Model(model.inputs[0], model.get_layer(ARCHITECTURES[network].base_output).output)
    return Assembly(model, frozenset(layer.name for layer in base.layers), None)


@pytest.mark.parametrize("network", TUNED)
def test_trunk_and_tail_compute_the_same_as_the_network(network: str) -> None:
    whole = assembly(network)
    image = np.random.default_rng(8).normal(size=(2, 64, 64, 3)).astype(np.float32)
    expected = whole.model(image, training=False).numpy()
    cuts = []
    for phase in ("head", "finetune"):
        freeze(whole, phase, NETWORK_DEFAULTS[network].last_block)
        cut = cut_below(whole.model)
        assert cut
        cuts.append(cut.layer)
        assert not cut.trunk.trainable_variables
        assert len(cut.tail.trainable_variables) == len(whole.model.trainable_variables) > 0
        output = cut.tail(cut.trunk(image, training=False), training=False).numpy()
        np.testing.assert_allclose(output, expected, atol=1e-6)
    assert cuts[0] == "head_pool"
    assert cuts[1] in whole.base_layers


def test_dropout_of_the_head_stays_above_the_cut() -> None:
    whole = assembly("squeezenet", head={"units": [], "dropout": 0.5})
    freeze(whole, "head", None)
    cut = cut_below(whole.model)
    assert cut
    assert cut.layer == "head_pool"
    assert [layer.name for layer in cut.tail.layers[1:]] == ["head_dropout", "predictions"]


@pytest.mark.parametrize(
    ("network", "unfreeze_from", "lowest"),
    [
        ("vgg16", "block5", "block5_conv1"),
        ("vgg16", "block4_conv3", "block4_conv3"),
        ("squeezenet", "fire9", "fire9_squeeze1x1"),
        ("efficientnet_lite0", "block7", "block7a_expand_conv"),
    ],
)
def test_unfreeze_from_is_the_lowest_trained_layer(
    network: str, unfreeze_from: str, lowest: str
) -> None:
    whole = assembly(network)
    freeze(whole, "finetune", unfreeze_from)
    trained = [layer.name for layer in whole.model.layers if layer.trainable_weights]
    assert trained[0] == lowest
    assert trained[-1] == "predictions"


def test_batch_normalization_of_a_pretrained_base_is_frozen() -> None:
    whole = assembly("efficientnet_lite0")
    freeze(whole, "finetune", "block1")
    norms = [la for la in whole.model.layers if isinstance(la, keras.layers.BatchNormalization)]
    assert norms
    assert not any(norm.trainable_weights for norm in norms)
    before = norms[0].moving_mean.numpy()
    whole.model(np.full((2, 64, 64, 3), 9, np.float32), training=True)
    np.testing.assert_array_equal(norms[0].moving_mean.numpy(), before)


def test_from_scratch_trains_everything() -> None:
    network = build_network(small_request(network="vgg19_bn"), 3)
    whole = Assembly(network, frozenset(), None)
    freeze(whole, "scratch", None)
    assert all(layer.trainable for layer in network.layers)
    assert cut_below(network) is None


@pytest.mark.parametrize("name", ["block", "block50", "head_fc1", "fire2"])
def test_unknown_layer_is_refused_with_the_known_blocks(name: str) -> None:
    with pytest.raises(ValidationFailed, match="block1, block2, block3, block4, block5"):
        freeze(assembly("vgg16"), "finetune", name)
