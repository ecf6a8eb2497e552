"""What `unfreeze_from` may name, told without a network and compared with the real ones."""

import pytest

from contracts.errors import ValidationFailed
from contracts.trainings import PRETRAINED, TrainableNetwork
from models.training.unfreezing import base_layers, check_unfreezing, position
from tests.models.training.material import asked
from tests.models.training.test_freezing import assembly


@pytest.mark.parametrize("network", sorted(PRETRAINED))
def test_the_names_are_those_of_the_networks_layers(network: TrainableNetwork) -> None:
    names = base_layers(network)
    assert len(names) == len(set(names))
    assert set(names) == assembly(network).base_layers


def test_a_block_is_where_its_first_layer_is() -> None:
    names = base_layers("efficientnet_lite0")
    assert names[position(names, "block6")] == "block6a_expand_conv"
    assert names[position(names, "block6b")] == "block6b_expand_conv"
    assert names[position(names, "block6b_add")] == "block6b_add"


@pytest.mark.parametrize("right", ["image", "conv1", "pool5", "fire8", "fire9_squeeze1x1"])
def test_what_is_there_is_taken(right: str) -> None:
    check_unfreezing(asked(network="squeezenet", strategy="fine_tuning", unfreeze_from=right))


@pytest.mark.parametrize(
    "wrong", ["fire99", "fire", "fire9_", "fire9_squeeze", "block5", "", "predictions", "f" * 64]
)
def test_what_is_not_there_is_refused_with_what_is(wrong: str) -> None:
    request = asked(network="squeezenet", strategy="fine_tuning", unfreeze_from=wrong)
    with pytest.raises(ValidationFailed, match="fire8, fire9") as refused:
        check_unfreezing(request)
    assert refused.value.detail.startswith("unfreeze_from")


def test_the_nearest_names_are_told() -> None:
    request = asked(network="vgg16", strategy="fine_tuning", unfreeze_from="blok5_conv1")
    with pytest.raises(ValidationFailed, match="Near it are block5_conv1"):
        check_unfreezing(request)
