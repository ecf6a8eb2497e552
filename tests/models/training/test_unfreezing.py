"""What `unfreeze_from` may name, told without a network."""

import pytest

from contracts.errors import ValidationFailed
from models.training.layer_names import layers_of
from models.training.validation import check_unfreezing, position
from tests.models.training.material import asked


def test_a_block_is_where_its_first_layer_is() -> None:
    names = layers_of("efficientnet_lite0")
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
