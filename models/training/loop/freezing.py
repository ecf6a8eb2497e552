"""Which layers of a network learn in a phase, and where it may be cut below them.

What lies below the lowest layer that learns gives the same answer at every epoch, so it is run
once and remembered (`models.training.data.features`). BatchNormalization of a pretrained base never
learns: in Keras a frozen one also keeps to its moving averages, which is what small batches of
new pictures must not disturb.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import keras
from keras import layers

from contracts.training.trainings import Phase
from models.training.loop.assembly import Assembly
from models.training.validation import position


@dataclass(frozen=True, slots=True)
class Cut:
    """A network in two parts that share its layers.

    Attributes:
        trunk: From pictures to the cut; nothing in it learns.
        tail: From the cut to probabilities.
        layer: The name of the layer whose output is the cut.
    """

    trunk: keras.Model
    tail: keras.Model
    layer: str


def freeze(assembly: Assembly, phase: Phase, unfreeze_from: str | None) -> None:
    """Say of each layer whether it learns in this phase.

    Args:
        assembly: The network.
        phase: ``head``: only the classifier; ``finetune``: also what lies above; ``scratch``: all.
        unfreeze_from: The lowest layer or block that learns in ``finetune``.

    Raises:
        ValidationFailed: The base has no such layer.
    """
    base = [layer for layer in assembly.model.layers if layer.name in assembly.base_layers]
    first = len(base)
    if phase == "finetune":
        first = position([layer.name for layer in base], unfreeze_from or "")
    for layer in assembly.model.layers:
        layer.trainable = True
    for number, layer in enumerate(base):
        normalises = isinstance(layer, layers.BatchNormalization)
        layer.trainable = number >= first and not normalises


def cut_below(model: keras.Model) -> Cut | None:
    """Cut a network as high as everything that learns, or drops units, is still above.

    Returns:
        The parts, or None where nothing can be cut off: the first layer learns already.
    """
    ordered = model.layers
    learning = next(i for i, layer in enumerate(ordered) if _changes(layer))
    for i in range(learning - 1, 0, -1):
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


def _changes(layer: keras.Layer) -> bool:
    return bool(layer.trainable_weights) or isinstance(layer, layers.Dropout)


def _sources(layer: keras.Layer) -> Iterable[str]:
    """Names of the layers that feed one."""
    for node in layer._inbound_nodes[:1]:  # Keras offers the graph nowhere else
        for tensor in node.input_tensors:
            yield tensor._keras_history.operation.name
