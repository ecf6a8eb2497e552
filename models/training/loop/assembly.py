"""Builds the network that is trained: one flat graph of a base and its classifier.

It is flat because a model nested in another hides its layers from the explanation methods.
"""

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from contracts.inference.manifest import ParentRecord, WeightsRecord
from contracts.training.training_options import Head
from contracts.training.trainings import TrainingRequest
from models.catalog import CATALOG
from models.export.catalog_weights import find_catalog_weights
from models.networks.architecture import ARCHITECTURES
from models.networks.loading import load_weights
from models.training.loop.network_defaults import channels_of, input_size_of
from models.weights.catalog import Weights


@dataclass(frozen=True, slots=True)
class Assembly:
    """A network before its training.

    Attributes:
        model: From preprocessed float32 images to probabilities.
        base_layers: Names of the pretrained layers; empty if the network is trained from scratch.
        weights: Where the base's weights come from; None if it is trained from scratch.
        parent: The version or file that it goes on from.
    """

    model: keras.Model
    base_layers: frozenset[str]
    weights: WeightsRecord | None
    parent: ParentRecord | None = None


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """The training images' color channels after preprocessing, for `centering`.

    Attributes:
        mean: Of each channel.
        variance: Of each channel; all 1 if only the mean is subtracted.
    """

    mean: tuple[float, ...]
    variance: tuple[float, ...]


def assemble(
    request: TrainingRequest,
    classes: int,
    weights: Weights,
    statistics: ChannelStatistics | None = None,
) -> Assembly:
    """Build the network and load the base's published weights unless it starts from scratch.

    Args:
        request: The training.
        classes: Number of classes.
        weights: Where weights are looked for. Nothing is downloaded.
        statistics: What the input is centered with; None for no centering.

    Raises:
        WeightsMissing: The base's weights are not on this machine.
        ValidationFailed: The images are too small for the network.
    """
    model = build_network(request, classes, statistics)
    if request.strategy == "from_scratch":
        return Assembly(model, frozenset(), None)
    network = CATALOG[request.network]
    origin = find_catalog_weights(network, weights)
    output = model.get_layer(ARCHITECTURES[network.name].base_output).output
    base = keras.Model(model.inputs[0], output, name=network.name)
    load_weights(base, network.name, origin.file.path, origin.file.format)
    return Assembly(model, frozenset(layer.name for layer in base.layers), origin.record)


def build_network(
    request: TrainingRequest, classes: int, statistics: ChannelStatistics | None = None
) -> keras.Model:
    """Build the network with random weights, in Keras's current default precision."""
    shape = (*input_size_of(request), channels_of(request))
    own_top = request.strategy == "from_scratch" and request.head is None
    options = {} if request.pool_dropout is None else {"pool_dropout": request.pool_dropout}
    network = ARCHITECTURES[request.network].build(
        input_shape=shape, classes=classes, include_top=own_top, **options
    )
    last = network.outputs[0]
    if not own_top:
        last = _classifier(last, request.head or Head(), classes)
    if not own_top or last.dtype != "float32":
        network = keras.Model(network.inputs[0], _in_float32(last), name=network.name)
    return network if statistics is None else _centered(network, statistics)


def _centered(network: keras.Model, statistics: ChannelStatistics) -> keras.Model:
    """A copy of the network whose first layer centers the input; still one flat graph."""
    centering = layers.Normalization(
        mean=statistics.mean, variance=statistics.variance, dtype="float32", name="centering"
    )
    centered: list[Any] = []  # filled once, however many layers take the input

    def call(layer: keras.Layer, inputs: Any, *arguments: Any, **options: Any) -> Any:
        history = getattr(inputs, "_keras_history", None)
        if history is not None and isinstance(history.operation, layers.InputLayer):
            if not centered:
                centered.append(centering(inputs))
            inputs = centered[0]
        return layer(inputs, *arguments, **options)

    return keras.models.clone_model(network, call_function=call)


def _classifier(maps: keras.KerasTensor, head: Head, classes: int) -> keras.KerasTensor:
    """Add pooling, dense layers with dropout, and an output layer that is always float32."""
    if head.pooling == "average":
        x = layers.GlobalAveragePooling2D(name="head_pool")(maps)
    elif head.pooling == "max":
        x = layers.GlobalMaxPooling2D(name="head_pool")(maps)
    else:
        x = layers.Flatten(name="head_flatten")(maps)
    for number, (units, rate) in enumerate(zip(head.units, head.rates, strict=True), 1):
        x = layers.Dense(units, "relu", name=f"head_fc{number}")(x)
        if rate:
            x = layers.Dropout(rate, name=f"head_dropout{number}")(x)
    if not head.units and isinstance(head.dropout, float) and head.dropout:
        x = layers.Dropout(head.dropout, name="head_dropout")(x)
    units = 1 if head.output == "sigmoid" else classes
    activation = "softmax" if head.output == "softmax" else "sigmoid"
    return layers.Dense(units, activation, dtype="float32", name="predictions")(x)


def _in_float32(probabilities: keras.KerasTensor) -> keras.KerasTensor:
    """Needed only while training in mixed precision; the finished network has no such layer."""
    if probabilities.dtype == "float32":
        return probabilities
    return layers.Activation("linear", dtype="float32", name="float32")(probabilities)
