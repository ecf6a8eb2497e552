"""Exports a flat Keras network to ONNX, layer by layer, with the package `onnx` only.

The usual way (Keras's export through tf2onnx) makes many copies of the weights while it folds
constants: for the full VGG16 it was killed at 24 GB. A flat network has a dozen kinds of layers,
each of which is one or two ONNX nodes, so the graph is written directly, with about three copies of
the weights. Like the SavedModel's `serve` it takes uint8 RGB, (n, height, width, 3), and includes
the preprocessing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
from keras import layers
from onnx import TensorProto, helper

from models.catalog import Preprocessing
from models.networks.preprocessing import BGR_MEANS

OPSET = 17
_IR_VERSION = 8  # what runtimes of 2022 and later read


class UnknownLayerError(ValueError):
    """The network has a layer, or an option of one, that cannot be exported to ONNX."""


class GraphBuilder:
    """Builds an ONNX graph, in which images have the channels first.

    Args:
        proto: The graph to fill in place, which avoids a copy of the weights.
    """

    def __init__(self, proto: Any) -> None:
        self._proto = proto

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        node = helper.make_node(kind, inputs, [output], name=output, **attributes)
        self._proto.node.append(node)
        return output

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64, copy=False)
        self._proto.initializer.add(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            raw_data=array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(),
        )
        return name


def write_onnx(model: keras.Model, preprocessing: Preprocessing, path: Path) -> None:
    """Write a classifier as an ONNX file.

    Args:
        model: A flat model with its weights.
        preprocessing: How uint8 RGB is converted to the model's input.

    Raises:
        UnknownLayerError: A layer cannot be exported.
    """
    height, width, channels = model.inputs[0].shape[1:]
    proto = helper.make_model(
        helper.make_graph([], model.name, [], []),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="opsin",
    )
    graph = GraphBuilder(proto.graph)
    names = {model.inputs[0].name: _prepare(graph, preprocessing, channels)}
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        names[layer.output.name] = _write(graph, layer, [names[x.name] for x in inputs])
    classes = _probabilities(graph, names[model.outputs[0].name], model.outputs[0].shape[-1])
    proto.graph.input.append(
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", height, width, 3])
    )
    proto.graph.output.append(
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes])
    )
    onnx.save(proto, path)
    del proto, graph  # frees the memory, because the checker reads the file
    onnx.checker.check_model(str(path))


def _probabilities(graph: GraphBuilder, output: str, units: int) -> int:
    """Name the network's output, one column per class; return the number of classes."""
    if units > 1:
        graph.add("Identity", [output], "probabilities")
        return units
    one = graph.constant("certainty", np.float32(1))
    other = graph.add("Sub", [one, output], "first_class")
    graph.add("Concat", [other, output], "probabilities", axis=-1)
    return 2


def _prepare(graph: GraphBuilder, kind: Preprocessing, channels: int) -> str:
    """Convert uint8 RGB, channels last, to the preprocessed input, channels first."""
    x = graph.add("Cast", ["images"], "prepare_float", to=TensorProto.FLOAT)
    x = graph.add("Transpose", [x], "prepare_transpose", perm=[0, 3, 1, 2])
    if kind == "caffe":
        order = graph.constant("prepare_bgr", np.array([2, 1, 0]))
        x = graph.add("Gather", [x, order], "prepare_reverse", axis=1)
    shift, divisor = {"caffe": (BGR_MEANS, 1.0), "lite": (127.0, 128.0), "unit": (0.0, 255.0)}[kind]
    means = np.broadcast_to(np.array(shift), (3,)).reshape(1, 3, 1, 1)
    x = graph.add("Sub", [x, graph.constant("prepare_means", means)], "prepare_centred")
    x = graph.add("Div", [x, graph.constant("prepare_divisor", np.float32(divisor))], "prepared")
    if channels == 3:
        return x
    luma = graph.constant("prepare_luma", np.array([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1))
    return graph.add("Conv", [x, luma], "prepared_gray")


def _write(graph: GraphBuilder, layer: keras.Layer, inputs: list[str]) -> str:
    for kind, writer in _WRITERS.items():
        if type(layer) is kind:
            output = writer(graph, layer, inputs)
            return _activate(graph, layer, output)
    raise UnknownLayerError(f"{layer.name}: {type(layer).__name__} cannot be exported to ONNX")


def _conv(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    kernel, groups = layer.kernel.numpy(), 1
    if isinstance(layer, layers.DepthwiseConv2D):
        height, width, channels, multiplier = kernel.shape
        groups = channels
        kernel = kernel.reshape(height, width, 1, channels * multiplier)
    operands = [*inputs, graph.constant(f"{layer.name}_kernel", kernel.transpose(3, 2, 0, 1))]
    if layer.use_bias:
        operands.append(graph.constant(f"{layer.name}_bias", layer.bias.numpy()))
    return graph.add(
        "Conv",
        operands,
        layer.name,
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.strides),
        dilations=list(layer.dilation_rate),
        group=groups,
        auto_pad=_PADDING[layer.padding],
    )


def _pool(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    return graph.add(
        "MaxPool",
        inputs,
        layer.name,
        kernel_shape=list(layer.pool_size),
        strides=list(layer.strides),
        auto_pad=_PADDING[layer.padding],
    )


def _dense(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    kernel = graph.constant(f"{layer.name}_kernel", layer.kernel.numpy())
    bias = graph.constant(f"{layer.name}_bias", layer.bias.numpy())
    return graph.add("Gemm", [*inputs, kernel, bias], layer.name)


def _norm(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    parts = [
        graph.constant(f"{layer.name}_{part}", getattr(layer, part).numpy())
        for part in ("gamma", "beta", "moving_mean", "moving_variance")
    ]
    return graph.add("BatchNormalization", [*inputs, *parts], layer.name, epsilon=layer.epsilon)


def _relu(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    if layer.negative_slope or layer.threshold:
        raise UnknownLayerError(
            f"{layer.name}: only plain and bounded ReLU can be exported to ONNX"
        )
    if layer.max_value is None:
        return graph.add("Relu", inputs, layer.name)
    bounds = [
        graph.constant(f"{layer.name}_least", np.float32(0)),
        graph.constant(f"{layer.name}_most", np.float32(layer.max_value)),
    ]
    return graph.add("Clip", [*inputs, *bounds], layer.name)


def _mean(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    return graph.add("ReduceMean", inputs, layer.name, axes=[2, 3], keepdims=int(layer.keepdims))


def _max(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    return graph.add("ReduceMax", inputs, layer.name, axes=[2, 3], keepdims=int(layer.keepdims))


def _center(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    """The layer that `centering` puts in front of a network."""
    mean = np.asarray(layer.mean, np.float32).reshape(1, -1, 1, 1)
    deviation = np.sqrt(np.asarray(layer.variance, np.float32)).reshape(1, -1, 1, 1)
    operands = [*inputs, graph.constant(f"{layer.name}_mean", mean)]
    x = graph.add("Sub", operands, f"{layer.name}_shifted")
    return graph.add("Div", [x, graph.constant(f"{layer.name}_deviation", deviation)], layer.name)


def _flatten(graph: GraphBuilder, layer: Any, inputs: list[str]) -> str:
    """Flatten with the channels last, as Keras does; the input may be images or vectors."""
    if len(layer.input.shape) == 4:
        inputs = [graph.add("Transpose", inputs, f"{layer.name}_nhwc", perm=[0, 2, 3, 1])]
    return graph.add("Flatten", inputs, layer.name)


def _plain(kind: str, **attributes: Any) -> Callable[[GraphBuilder, Any, list[str]], str]:
    return lambda graph, layer, inputs: graph.add(kind, inputs, layer.name, **attributes)


def _activate(graph: GraphBuilder, layer: Any, x: str) -> str:
    name = getattr(getattr(layer, "activation", None), "__name__", "linear")
    if name == "linear":
        return x
    if name not in _ACTIVATIONS:
        raise UnknownLayerError(f"{layer.name}: the activation {name} cannot be exported to ONNX")
    return graph.add(_ACTIVATIONS[name], [x], f"{layer.name}_{name}")


_PADDING = {"same": "SAME_UPPER", "valid": "VALID"}
_ACTIVATIONS = {"relu": "Relu", "softmax": "Softmax", "sigmoid": "Sigmoid"}
_WRITERS: dict[type, Callable[[GraphBuilder, Any, list[str]], str]] = {
    layers.Conv2D: _conv,
    layers.DepthwiseConv2D: _conv,
    layers.MaxPooling2D: _pool,
    layers.Dense: _dense,
    layers.BatchNormalization: _norm,
    layers.ReLU: _relu,
    layers.GlobalAveragePooling2D: _mean,
    layers.GlobalMaxPooling2D: _max,
    layers.Normalization: _center,
    layers.Flatten: _flatten,
    layers.Add: _plain("Add"),
    layers.Concatenate: _plain("Concat", axis=1),
    layers.Softmax: _plain("Softmax", axis=-1),
    layers.Dropout: _plain("Identity"),
    layers.Activation: _plain("Identity"),
}
