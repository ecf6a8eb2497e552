"""The listed layer names are those of the real networks."""

from typing import get_args

import keras
import pytest

from contracts.training.trainings import TrainableNetwork
from models.networks.architecture import ARCHITECTURES
from models.training.layer_names import convolution_names, layer_names
from models.training.loop.assembly import build_network
from tests.models.training.samples import small_request


@pytest.mark.parametrize("network", get_args(TrainableNetwork))
def test_names_are_those_of_the_network(network: TrainableNetwork) -> None:
    model = build_network(small_request(network=network, strategy="from_scratch", image_size=64), 3)
    output = model.get_layer(ARCHITECTURES[network].base_output).output
    base = keras.Model(model.inputs[0], output).layers
    names = layer_names(network)
    assert len(names) == len(set(names))
    assert set(names) == {la.name for la in base if not isinstance(la, keras.layers.Dropout)}
    convolutions = {la.name for la in base if isinstance(la, keras.layers.Conv2D)}
    assert set(convolution_names(network)) == convolutions
    first = next(la.name for la in model.layers if isinstance(la, keras.layers.Conv2D))
    assert convolution_names(network)[0] == first
