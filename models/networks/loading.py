"""Loads the weights of a file into a network, whatever the file's format and names.

Each reader converts its format to the arrays of each layer, by layer name, in Keras's order and
orientation. `assign` is strict: every layer of the network that has weights must be present and
have the right shapes.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import numpy.typing as npt

from models.networks.efficientnet_lite import STAGES
from models.networks.onnx_tensors import read_onnx_tensors
from models.networks.preprocessing import BGR_MEANS
from models.networks.tfjs import read_tfjs
from models.networks.torch_checkpoint import Tensors, read_torch_checkpoint
from models.weights.sources import Format

Arrays = dict[str, list[npt.NDArray[Any]]]
"""The arrays of each layer by its name, in the order of ``layer.weights``."""

_TORCH_MEAN = np.array([0.485, 0.456, 0.406])
_TORCH_DEVIATION = np.array([0.229, 0.224, 0.225])


class WeightsMismatchError(ValueError):
    """The weights belong to another network. The message names the layer and both shapes."""


def load_weights(model: keras.Model, network: str, path: Path, file_format: Format) -> None:
    """Load the weights in `path` into `model`; layers that the model does not have are ignored.

    Args:
        model: A flat network, or a base without its top.
        network: The catalog name, which determines the names in a torch checkpoint.
        path: A verified file.

    Raises:
        WeightsMismatchError: A layer of the model is missing in the file or has another shape.
        UnreadableCheckpointError: A torch file is damaged.
        ValueError: The format or the network is unknown, or the file is damaged.
    """
    assign(model, read_arrays(network, path, file_format))


def read_arrays(network: str, path: Path, file_format: Format) -> Arrays:
    """The arrays of each layer in a file.

    Args:
        network: The catalog name, which determines the names in a torch checkpoint.
        path: A verified file.

    Raises:
        UnreadableCheckpointError: A torch file is damaged.
        ValueError: The format or the network is unknown, or the file is damaged.
    """
    if file_format != "torch":
        return _READERS[file_format](path)
    try:
        translate = _FROM_TORCH[network]
    except KeyError:
        raise ValueError(f"the names in torch checkpoints of {network} are unknown") from None
    return translate(read_torch_checkpoint(path))


def assign(model: keras.Model, arrays: Arrays) -> None:
    """Set the weights of every layer of `model`; if one does not match, nothing is changed.

    Raises:
        WeightsMismatchError: A layer is missing in `arrays` or has another shape.
    """
    weighted = [layer for layer in model.layers if layer.weights]
    for layer in weighted:
        expected = [tuple(weight.shape) for weight in layer.weights]
        if layer.name not in arrays:
            raise WeightsMismatchError(
                f"{model.name}: the file has no weights for layer {layer.name}"
            )
        found = [array.shape for array in arrays[layer.name]]
        if expected != found:
            raise WeightsMismatchError(
                f"{model.name}: layer {layer.name} takes {expected}, the file has {found}"
            )
    for layer in weighted:
        layer.set_weights([array.astype(np.float32) for array in arrays[layer.name]])


def _from_keras_h5(path: Path) -> Arrays:
    """Keras's legacy layout: a group per layer, whose attribute lists its arrays in order."""
    with h5py.File(path, "r") as file:
        names = [_text(name) for name in file.attrs["layer_names"]]
        return {
            _layer(name): [
                np.asarray(file[name][_text(w)]) for w in file[name].attrs["weight_names"]
            ]
            for name in names
        }


def _from_npz(path: Path) -> Arrays:
    """``<layer>/kernel`` and ``<layer>/bias``."""
    with np.load(path, allow_pickle=False) as file:
        layers = dict.fromkeys(key.rpartition("/")[0] for key in file.files)
        return {_layer(name): [file[f"{name}/kernel"], file[f"{name}/bias"]] for name in layers}


def _from_onnx(path: Path) -> Arrays:
    """A Keras network converted by tf2onnx: ``…/block1_conv1_1/convolution/…`` and its bias."""
    tensors = read_onnx_tensors(path)
    arrays: Arrays = {}
    for name, kernel in tensors.items():
        match = re.search(r"(\w+)/(block\d_conv\d)(_\d+)?/convolution/", name)
        if match:
            graph, layer, copy = match.groups(default="")
            bias = tensors[f"{graph}/{layer}{copy}/Squeeze:0"]
            arrays[layer] = [_kernel(kernel), bias]
    return arrays


def _squeezenet_from_torch(tensors: Tensors) -> Arrays:
    """Torchvision's squeezenet1_1: layers named by position, trained on scaled RGB."""
    fires = zip((3, 4, 6, 7, 9, 10, 11, 12), range(2, 10), strict=True)
    names = {"conv1": "features.0", "conv10": "classifier.1"}
    for position, number in fires:
        for part in ("squeeze", "expand1x1", "expand3x3"):
            ours = "squeeze1x1" if part == "squeeze" else part
            names[f"fire{number}_{ours}"] = f"features.{position}.{part}"
    arrays = {
        layer: [_kernel(tensors[f"{name}.weight"]), tensors[f"{name}.bias"]]
        for layer, name in names.items()
    }
    return arrays | {"conv1": _for_caffe_input(*arrays["conv1"])}


def _for_caffe_input(kernel: npt.NDArray[Any], bias: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """Fold torchvision's scaling of RGB into a convolution whose input is BGR minus the means.

    It was trained on t = (rgb / 255 - m) / d; here the input is x = bgr - M. Hence, with ' for
    reversed channels, t = (x' + M') / (255 d) - m / d: the factor goes into the kernel, the rest
    into the bias. This is exact because conv1 has no padding, whose zeros would be another color.
    """
    means = np.array(BGR_MEANS)[::-1]
    scaled = kernel.astype(np.float64) / (255 * _TORCH_DEVIATION)[:, None]
    shift = (means / 255 - _TORCH_MEAN) / _TORCH_DEVIATION
    moved = bias + np.einsum("hwio,i->o", kernel.astype(np.float64), shift)
    return [scaled[:, :, ::-1], moved]


def _efficientnet_lite_from_torch(tensors: Tensors) -> Arrays:
    """The PyTorch port: blocks numbered throughout, norms numbered within the block."""
    arrays: Arrays = {
        "stem_conv": [_kernel(tensors["_conv_stem.weight"])],
        "stem_bn": _norm(tensors, "_bn0"),
        "head_conv": [_kernel(tensors["_conv_head.weight"])],
        "head_bn": _norm(tensors, "_bn1"),
        "predictions": [tensors["_fc.weight"].T, tensors["_fc.bias"]],
    }
    ours = [f"block{s}{'abcd'[b]}" for s, stage in enumerate(STAGES, 1) for b in range(stage[0])]
    for number, name in enumerate(ours):
        theirs = f"_blocks.{number}"
        if f"{theirs}._expand_conv.weight" in tensors:
            arrays[f"{name}_expand_conv"] = [_kernel(tensors[f"{theirs}._expand_conv.weight"])]
            arrays[f"{name}_expand_bn"] = _norm(tensors, f"{theirs}._bn0")
        depthwise = tensors[f"{theirs}._depthwise_conv.weight"]
        arrays[f"{name}_dwconv"] = [depthwise.transpose(2, 3, 0, 1)]
        arrays[f"{name}_dwconv_bn"] = _norm(tensors, f"{theirs}._bn1")
        arrays[f"{name}_project_conv"] = [_kernel(tensors[f"{theirs}._project_conv.weight"])]
        arrays[f"{name}_project_bn"] = _norm(tensors, f"{theirs}._bn2")
    return arrays


def _face_embedder_from_tfjs(path: Path) -> Arrays:
    """face-api.js: a convolution, its bias and the scale after it, which are folded into one."""
    tensors = read_tfjs(path)
    arrays: Arrays = {"fc": [tensors["fc"]]}
    for name in tensors:
        if not name.endswith("/conv/filters"):
            continue
        theirs = name.removesuffix("/conv/filters")
        factor = tensors[f"{theirs}/scale/weights"]
        bias = tensors[f"{theirs}/conv/bias"] * factor + tensors[f"{theirs}/scale/biases"]
        arrays[_layer(theirs)] = [tensors[name] * factor, bias]
    return arrays


def _kernel(tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From (out, in, height, width), as in torch and ONNX, to (height, width, in, out)."""
    return tensor.transpose(2, 3, 1, 0)


def _norm(tensors: Tensors, name: str) -> list[npt.NDArray[Any]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return [tensors[f"{name}.{part}"] for part in parts]


def _layer(name: str) -> str:
    """A layer name that Keras 3 accepts, without slashes."""
    return name.replace("/", "_")


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


_READERS: dict[Format, Callable[[Path], Arrays]] = {
    "keras_h5": _from_keras_h5,
    "npz": _from_npz,
    "onnx": _from_onnx,
    "tfjs": _face_embedder_from_tfjs,
}

_FROM_TORCH: dict[str, Callable[[Tensors], Arrays]] = {
    "squeezenet": _squeezenet_from_torch,
    "efficientnet_lite0": _efficientnet_lite_from_torch,
}
