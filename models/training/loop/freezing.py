"""Which layers of a network are trained in a phase, and where it can be cut below them.

The part below the lowest trained layer gives the same output in every epoch, so it is run once
and its features are cached (`models.training.data.features`). BatchNormalization of a pretrained
base is always frozen: in Keras a frozen one also uses its moving averages, which small batches of
new images would otherwise disturb.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import keras
from keras import layers

from contracts.training.trainings import Phase
from models.training.loop.assembly import Assembly
from models.training.validation import layer_index


@dataclass(frozen=True, slots=True)
class Cut:
    """A network in two parts that share its layers.

    Attributes:
        trunk: From images to the cut; frozen.
        tail: From the cut to probabilities.
        layer: Name of the layer whose output is the cut.
    """

    trunk: keras.Model
    tail: keras.Model
    layer: str


def freeze(assembly: Assembly, phase: Phase, unfreeze_from: str | int | None) -> None:
    """Set for each layer whether it is trained in this phase.

    Args:
        assembly: The network.
        phase: ``head`` trains only the classifier, ``finetune`` also the upper layers of the base,
            ``scratch`` everything.
        unfreeze_from: The lowest layer or block that ``finetune`` trains, or how many layers of
            the base stay frozen.

    Raises:
        ValidationFailed: The base has no such layer.
    """
    base = [layer for layer in assembly.model.layers if layer.name in assembly.base_layers]
    first = len(base)
    if phase == "finetune":
        first = layer_index([layer.name for layer in base], unfreeze_from or 0)
    for layer in assembly.model.layers:
        layer.trainable = True
    for number, layer in enumerate(base):
        normalizes = isinstance(layer, layers.BatchNormalization)
        layer.trainable = number >= first and not normalizes


def cut_below(model: keras.Model) -> Cut | None:
    """Cut a network as high as possible with all trained and dropout layers above the cut.

    Returns:
        The parts, or None if nothing can be cut off because the first layer is trained.
    """
    ordered = model.layers
    lowest = next(i for i, layer in enumerate(ordered) if _varies(layer))
    for i in range(lowest - 1, 0, -1):
        below = {layer.name for layer in ordered[: i + 1]}
        crossing = {
            source for layer in ordered[i + 1 :] for source in _sources(layer) if source in below
        }
        if len(crossing) == 1:
            name = crossing.pop()
            tensor = model.get_layer(name).output
            trunk = keras.Model(model.inputs[0], tensor, name="trunk")
            return Cut(trunk, keras.Model(tensor, model.outputs[0], name="tail"), name)
    return None


def _varies(layer: keras.Layer) -> bool:
    return bool(layer.trainable_weights) or isinstance(layer, layers.Dropout)


def _sources(layer: keras.Layer) -> Iterable[str]:
    """Names of the layers that feed a layer."""
    for node in layer._inbound_nodes[:1]:  # Keras has no public access to the graph
        for tensor in node.input_tensors:
            yield tensor._keras_history.operation.name
