"""Builds the network that is trained: one flat graph of a base and its classifier.

It is flat because a model nested in another hides its layers from the explanation methods.
"""

from dataclasses import dataclass

import keras
from keras import layers

from contracts.inference.manifest import WeightsRecord
from contracts.training.trainings import Head, TrainingRequest
from models.catalog import CATALOG
from models.export.catalog_weights import find_catalog_weights
from models.networks.architecture import ARCHITECTURES
from models.networks.loading import load_weights
from models.training.loop.network_defaults import input_size_of
from models.weights.catalog import Weights


@dataclass(frozen=True, slots=True)
class Assembly:
    """A network before its training.

    Attributes:
        model: From preprocessed float32 images to probabilities.
        base_layers: Names of the pretrained layers; empty if the network is trained from scratch.
        weights: Where the base's weights come from; None if it is trained from scratch.
    """

    model: keras.Model
    base_layers: frozenset[str]
    weights: WeightsRecord | None


def assemble(request: TrainingRequest, classes: int, weights: Weights) -> Assembly:
    """Build the network and load the base's published weights unless it starts from scratch.

    Args:
        request: The training.
        classes: Number of classes.
        weights: Where weights are looked for. Nothing is downloaded.

    Raises:
        WeightsMissing: The base's weights are not on this machine.
        ValidationFailed: The images are too small for the network.
    """
    model = build_network(request, classes)
    if request.strategy == "from_scratch":
        return Assembly(model, frozenset(), None)
    network = CATALOG[request.network]
    origin = find_catalog_weights(network, weights)
    output = model.get_layer(ARCHITECTURES[network.name].base_output).output
    base = keras.Model(model.inputs[0], output, name=network.name)
    load_weights(base, network.name, origin.file.path, origin.file.format)
    return Assembly(model, frozenset(layer.name for layer in base.layers), origin.record)


def build_network(request: TrainingRequest, classes: int) -> keras.Model:
    """Build the network with random weights, in Keras's current default precision."""
    build = ARCHITECTURES[request.network].build
    shape = (*input_size_of(request), 3)
    own_top = request.strategy == "from_scratch" and request.head is None
    network = build(input_shape=shape, classes=classes, include_top=own_top)
    last = network.outputs[0]
    if not own_top:
        last = _classifier(last, request.head or Head(), classes)
    if not own_top or last.dtype != "float32":
        network = keras.Model(network.inputs[0], _in_float32(last), name=network.name)
    return network


def _classifier(maps: keras.KerasTensor, head: Head, classes: int) -> keras.KerasTensor:
    """Add pooling, dense layers with dropout, and an output layer that is always float32."""
    if head.pooling == "average":
        x = layers.GlobalAveragePooling2D(name="head_pool")(maps)
    else:
        x = layers.Flatten(name="head_flatten")(maps)
    for number, units in enumerate(head.units, 1):
        x = layers.Dense(units, "relu", name=f"head_fc{number}")(x)
        if head.dropout:
            x = layers.Dropout(head.dropout, name=f"head_dropout{number}")(x)
    if head.dropout and not head.units:
        x = layers.Dropout(head.dropout, name="head_dropout")(x)
    units = 1 if head.output == "sigmoid" else classes
    return layers.Dense(units, head.output, dtype="float32", name="predictions")(x)


def _in_float32(probabilities: keras.KerasTensor) -> keras.KerasTensor:
    """Needed only while training in mixed precision; the finished network has no such layer."""
    if probabilities.dtype == "float32":
        return probabilities
    return layers.Activation("linear", dtype="float32", name="float32")(probabilities)
