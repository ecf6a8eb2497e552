from typing import Any

import keras
import numpy as np
import pytest

from contracts.errors import ValidationFailed
from models.networks.architecture import ARCHITECTURES
from models.training.loop.assembly import Assembly, build_network
from models.training.loop.freezing import cut_below, freeze
from models.training.loop.recipe import RECIPES
from tests.models.training.material import asked

TUNED = ["efficientnet_lite0", "squeezenet", "vgg16"]


def assembly(network: str, **more: Any) -> Assembly:
    """The network with random weights where the published ones would be."""
    request = asked(network=network, strategy="fine_tuning", image_size=64, **more)
    model = build_network(request, 3)
    base = keras.Model(model.inputs[0], model.get_layer(ARCHITECTURES[network].base_output).output)
    return Assembly(model, frozenset(layer.name for layer in base.layers), None)


@pytest.mark.parametrize("network", TUNED)
def test_cut_anywhere_the_two_parts_are_the_network(network: str) -> None:
    whole = assembly(network)
    picture = np.random.default_rng(8).normal(size=(2, 64, 64, 3)).astype(np.float32)
    expected = whole.model(picture, training=False).numpy()
    cuts = []
    for phase in ("head", "finetune"):
        freeze(whole, phase, RECIPES[network].last_block)
        cut = cut_below(whole.model)
        assert cut
        cuts.append(cut.layer)
        assert not cut.trunk.trainable_variables
        assert len(cut.tail.trainable_variables) == len(whole.model.trainable_variables) > 0
        answer = cut.tail(cut.trunk(picture, training=False), training=False).numpy()
        np.testing.assert_allclose(answer, expected, atol=1e-6)
    assert cuts[0] == "head_pool"
    assert cuts[1] in whole.base_layers


def test_without_dense_layers_the_heads_dropout_is_not_cut_off() -> None:
    whole = assembly("squeezenet", head={"units": [], "dropout": 0.5})
    freeze(whole, "head", None)
    cut = cut_below(whole.model)
    assert cut
    assert cut.layer == "head_pool"
    assert [layer.name for layer in cut.tail.layers[1:]] == ["head_dropout", "predictions"]


@pytest.mark.parametrize(
    ("network", "wanted", "lowest"),
    [
        ("vgg16", "block5", "block5_conv1"),
        ("vgg16", "block4_conv3", "block4_conv3"),
        ("squeezenet", "fire9", "fire9_squeeze1x1"),
        ("efficientnet_lite0", "block7", "block7a_expand_conv"),
    ],
)
def test_what_learns_begins_at_the_layer_or_block_named(
    network: str, wanted: str, lowest: str
) -> None:
    whole = assembly(network)
    freeze(whole, "finetune", wanted)
    learning = [layer.name for layer in whole.model.layers if layer.trainable_weights]
    assert learning[0] == lowest
    assert learning[-1] == "predictions"


def test_normalisation_of_a_pretrained_base_never_learns_nor_drifts() -> None:
    whole = assembly("efficientnet_lite0")
    freeze(whole, "finetune", "block1")
    norms = [la for la in whole.model.layers if isinstance(la, keras.layers.BatchNormalization)]
    assert norms
    assert not any(norm.trainable_weights for norm in norms)
    before = norms[0].moving_mean.numpy()
    whole.model(np.full((2, 64, 64, 3), 9, np.float32), training=True)
    np.testing.assert_array_equal(norms[0].moving_mean.numpy(), before)


def test_from_scratch_all_learns_and_nothing_is_cut() -> None:
    network = build_network(asked(network="vgg19_bn"), 3)
    whole = Assembly(network, frozenset(), None)
    freeze(whole, "scratch", None)
    assert all(layer.trainable for layer in network.layers)
    assert cut_below(network) is None


@pytest.mark.parametrize("wanted", ["block", "block50", "head_fc1", "fire2"])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(wanted: str) -> None:
    with pytest.raises(ValidationFailed, match="block1, block2, block3, block4, block5"):
        freeze(assembly("vgg16"), "finetune", wanted)
