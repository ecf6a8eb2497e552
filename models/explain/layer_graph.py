"""A network as a flat graph of layers, with a tensor to tap at each.

A functional network, a Sequential one, and one that holds others as layers are all traced on a new
input. The layers are the network's own and are not changed; what is new is the graph, in which
every layer's output can be reached and differentiated.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import keras
from keras.src.models import Functional  # what `keras.Model(inputs, outputs)` is; not public

from contracts.inference.explanation import LayerInfo

Tensor = Any
"""A TensorFlow tensor; TensorFlow ships no types."""


class OpaqueModelError(ValueError):
    """The network is a class with its own `call`, so there is no graph of layers to look at."""


def is_nested(model: keras.Model) -> bool:
    """Whether a network holds others as layers."""
    return any(isinstance(layer, keras.Model) for layer in model.layers)


@dataclass(frozen=True, slots=True)
class LayerNode:
    """One layer at its position in the graph.

    Attributes:
        layer: The layer, with its weights.
        inputs: A symbolic tensor, or a structure of several.
        output: A symbolic tensor.
    """

    layer: keras.Layer
    inputs: Any
    output: Any

    @property
    def has_maps(self) -> bool:
        """Whether the output is maps: (n, height, width, channels), larger than one position."""
        shape = getattr(self.output, "shape", ())
        return len(shape) == 4 and shape[1:3] != (1, 1)


@dataclass(slots=True)
class LayerGraph:
    """A network without nesting.

    Attributes:
        image: Its input, symbolic.
        nodes: Its layers by name, in the order of the forward pass, without the input.
        output: Its output, symbolic.
    """

    image: Any
    nodes: dict[str, LayerNode] = field(default_factory=dict)
    output: Any = None

    @classmethod
    def of(cls, model: keras.Model) -> Self:
        """Trace a functional or Sequential model with one input and one output.

        Raises:
            OpaqueModelError: It is, or contains, a custom class whose layers cannot be seen.
        """
        _require_layers(model)  # before its inputs are read: a custom class has none
        first = model.inputs[0]
        graph = cls(keras.Input(batch_shape=first.shape, dtype=first.dtype, name=first.name))
        graph.output = graph._trace(model, graph.image)
        return graph

    def model_to(self, *outputs: Any) -> keras.Model:
        """A model from the image to these tensors, computed in one pass."""
        return keras.Model(self.image, list(outputs) if len(outputs) > 1 else outputs[0])

    @property
    def model(self) -> keras.Model:
        """The whole network without nesting."""
        return keras.Model(self.image, self.output)

    def producer(self, tensor: Any) -> LayerNode:
        """The node whose output `tensor` is."""
        return next(node for node in self.nodes.values() if node.output is tensor)

    def _trace(self, model: keras.Model, x: Any) -> Any:
        _require_layers(model)
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                x = self._call(layer, x)
            return x
        clone = keras.models.clone_model(
            model,
            input_tensors=keras.tree.pack_sequence_as(model.input, keras.tree.flatten(x)),
            clone_function=lambda layer: layer,
            call_function=self._call,
        )
        return keras.tree.pack_sequence_as(model.output, clone.outputs)

    def _call(self, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Model):
            return self._trace(layer, args[0])
        if layer.name in self.nodes and self.nodes[layer.name].layer is not layer:
            layer = self._renamed(layer, args[0])  # names in a graph must be unique
        output = layer(*args, **kwargs)
        self.nodes.setdefault(layer.name, LayerNode(layer, args[0] if args else None, output))
        return output

    def _renamed(self, layer: keras.Layer, x: Any) -> keras.Layer:
        number = next(n for n in range(2, 10_000) if f"{layer.name}_{n}" not in self.nodes)
        copy = type(layer).from_config(layer.get_config() | {"name": f"{layer.name}_{number}"})
        copy(x)
        copy.set_weights(layer.get_weights())
        return copy


def _require_layers(model: keras.Model) -> None:
    """Raises `OpaqueModelError` for a custom model class."""
    if not isinstance(model, keras.Sequential | Functional):
        raise OpaqueModelError(
            f"{model.name} is a {type(model).__name__}, whose layers cannot be seen from outside. "
            "Write it as a functional or Sequential network."
        )


def layers_of(graph: LayerGraph) -> tuple[LayerInfo, ...]:
    """Every layer in the order of the forward pass, without the input."""
    return tuple(_info(name, node) for name, node in graph.nodes.items())


def _info(name: str, node: LayerNode) -> LayerInfo:
    return LayerInfo(
        name=name,
        type=type(node.layer).__name__,
        output_shape=list(getattr(node.output, "shape", (None,)))[1:],
        explainable=node.has_maps,
        parameters=node.layer.count_params(),
        trainable=bool(node.layer.trainable_weights),
    )
