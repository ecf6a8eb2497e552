"""A network as one row of layers, whatever it was nested in, with a tensor to tap at each.

A functional network, a Sequential one, and one that holds others as layers are all traced through
on a new input. The layers are the network's own and nothing about them changes; what is new is the
graph, in which every layer's output can be reached and derived from.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import keras
from keras.src.models import Functional  # what `keras.Model(inputs, outputs)` is; not public

from contracts.inference.explanation import LayerInfo

Tensor = Any
"""A TensorFlow tensor; TensorFlow ships no types."""


class OpaqueModelError(ValueError):
    """A network computes in a method of its own; there is no graph of layers to look at."""


def is_nested(model: keras.Model) -> bool:
    """Whether a network holds others as layers."""
    return any(isinstance(layer, keras.Model) for layer in model.layers)


@dataclass(frozen=True, slots=True)
class Step:
    """One layer in its place.

    Attributes:
        layer: The layer, with its weights.
        inputs: What goes in: a symbolic tensor, or a structure of several.
        output: What comes out.
    """

    layer: keras.Layer
    inputs: Any
    output: Any

    @property
    def has_maps(self) -> bool:
        """Whether the output is maps: (n, height, width, channels) with a place to point at."""
        shape = getattr(self.output, "shape", ())
        return len(shape) == 4 and shape[1:3] != (1, 1)


@dataclass(slots=True)
class Flat:
    """A network without nesting.

    Attributes:
        image: Its input, symbolic.
        steps: Its layers by name, in the order of the pass forward, without the input.
        output: Its output, symbolic.
    """

    image: Any
    steps: dict[str, Step] = field(default_factory=dict)
    output: Any = None

    @classmethod
    def of(cls, model: keras.Model) -> Self:
        """Trace through a functional or Sequential model with one input and one output.

        Raises:
            OpaqueModelError: It is, or holds, a class of its own, whose layers cannot be seen.
        """
        _require_layers(model)  # before its inputs: such a class has none
        first = model.inputs[0]
        flat = cls(keras.Input(batch_shape=first.shape, dtype=first.dtype, name=first.name))
        flat.output = flat._through(model, flat.image)
        return flat

    def to(self, *outputs: Any) -> keras.Model:
        """From the picture to these tensors, in one pass."""
        return keras.Model(self.image, list(outputs) if len(outputs) > 1 else outputs[0])

    @property
    def model(self) -> keras.Model:
        """The whole network, its layers in one row: what can be exported and drawn on."""
        return keras.Model(self.image, self.output)

    def producer(self, tensor: Any) -> Step:
        """The step that a tensor comes out of."""
        return next(step for step in self.steps.values() if step.output is tensor)

    def _through(self, model: keras.Model, x: Any) -> Any:
        _require_layers(model)
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                x = self._step(layer, x)
            return x
        clone = keras.models.clone_model(
            model,
            input_tensors=keras.tree.pack_sequence_as(model.input, keras.tree.flatten(x)),
            clone_function=lambda layer: layer,
            call_function=self._step,
        )
        return keras.tree.pack_sequence_as(model.output, clone.outputs)

    def _step(self, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Model):
            return self._through(layer, args[0])
        if layer.name in self.steps and self.steps[layer.name].layer is not layer:
            layer = self._renamed(layer, args[0])  # a graph may not hold two of one name
        output = layer(*args, **kwargs)
        self.steps.setdefault(layer.name, Step(layer, args[0] if args else None, output))
        return output

    def _renamed(self, layer: keras.Layer, x: Any) -> keras.Layer:
        number = next(n for n in range(2, 10_000) if f"{layer.name}_{n}" not in self.steps)
        copy = type(layer).from_config(layer.get_config() | {"name": f"{layer.name}_{number}"})
        copy(x)
        copy.set_weights(layer.get_weights())
        return copy


def _require_layers(model: keras.Model) -> None:
    """Raises `OpaqueModelError` for a class of its own."""
    if not isinstance(model, keras.Sequential | Functional):
        raise OpaqueModelError(
            f"{model.name} is a {type(model).__name__}, whose layers cannot be seen from outside. "
            "Write it as a functional or Sequential network."
        )


def layers_of(flat: Flat) -> tuple[LayerInfo, ...]:
    """Every layer in the order of the pass forward, without the input."""
    return tuple(_info(name, step) for name, step in flat.steps.items())


def _info(name: str, step: Step) -> LayerInfo:
    return LayerInfo(
        name=name,
        type=type(step.layer).__name__,
        output_shape=list(getattr(step.output, "shape", (None,)))[1:],
        explainable=step.has_maps,
    )
