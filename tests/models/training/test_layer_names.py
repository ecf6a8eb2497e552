"""The names that are told without a network are those of the real ones, and what asks by them."""

from typing import get_args

import keras
import pytest

from contracts.errors import ValidationFailed
from contracts.training.trainings import TrainableNetwork
from models.networks.architecture import ARCHITECTURES
from models.training.layer_names import convolutions_of, layers_of
from models.training.loop.assembly import build_network
from models.training.validation import check_filters
from tests.models.training.material import asked


@pytest.mark.parametrize("network", get_args(TrainableNetwork))
def test_the_names_are_those_of_the_networks_layers(network: TrainableNetwork) -> None:
    model = build_network(asked(network=network, strategy="from_scratch", image_size=64), 3)
    output = model.get_layer(ARCHITECTURES[network].base_output).output
    base = keras.Model(model.inputs[0], output).layers
    names = layers_of(network)
    assert len(names) == len(set(names))
    assert set(names) == {one.name for one in base if not isinstance(one, keras.layers.Dropout)}
    convolutions = {one.name for one in base if isinstance(one, keras.layers.Conv2D)}
    assert set(convolutions_of(network)) == convolutions
    first = next(one.name for one in model.layers if isinstance(one, keras.layers.Conv2D))
    assert convolutions_of(network)[0] == first


def test_filters_that_are_not_there_are_refused_with_those_that_are() -> None:
    filmed = {"network": "cnn_pets", "strategy": "from_scratch", "filters_every": 5}
    check_filters(asked(**filmed))
    check_filters(asked(**filmed, filters_layer="conv4"))
    with pytest.raises(ValidationFailed, match="conv1, conv2, conv3, conv4"):
        check_filters(asked(**filmed, filters_layer="conv5"))
    with pytest.raises(ValueError, match="filters_every"):
        asked(network="cnn_pets", strategy="from_scratch", filters_layer="conv4")
