"""Imports OpenVINO and NNCF without telemetry, and reads SavedModels so that they run quickly.

Both libraries bring `openvino_telemetry`, which posts to Google Analytics unless the user has opted
out in a file of their home directory. Opsin opens no connection that it was not told to open. Both
libraries use stubs if that module cannot be imported, so importing it is blocked.

By default, OpenVINO runs `tf.reverse` in a slow reference kernel: turning RGB into BGR took a third
of SqueezeNet's time. A gather in a constant order is equivalent, and OpenVINO folds it into the
weights of the next convolution.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Node = Any
"""An operation of TensorFlow's graph with converted inputs; OpenVINO ships no types for it."""

Converter = Callable[[Node], list[Any]]

_TELEMETRY = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """The `openvino` module.

    Raises:
        ImportError: It is not installed.
    """
    _block_telemetry()
    import openvino  # takes half a second; needed only for serving

    return openvino  # type: ignore[no-any-return]


def import_nncf() -> ModuleType:
    """The `nncf` module.

    Raises:
        ImportError: It is not installed.
    """
    _block_telemetry()
    import nncf  # takes seconds; needed only for a quantization

    return nncf  # type: ignore[no-any-return]


def _block_telemetry() -> None:
    # None in sys.modules is Python's own way to make an import fail.
    sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]


def converting_core(openvino: Any) -> Any:
    """A `Core` of the `openvino` module that reads with our `converters`."""
    from openvino.frontend.tensorflow import ConversionExtension  # needed only for serving

    core = openvino.Core()
    for name, convert in converters(openvino.opset13).items():
        core.add_extension(ConversionExtension(name, convert))
    return core


def converters(op: Any) -> dict[str, Converter]:
    """Converters for TensorFlow operations that OpenVINO converts badly, by operation name.

    Args:
        op: `openvino.opset13`.
    """

    def reverse(node: Node) -> list[Any]:
        """Reverses along constant axes."""
        tensor, axes = node.get_input(0), node.get_input(1).get_node().get_data()
        shape = tensor.get_partial_shape()
        for axis in axes.ravel():
            positive = int(axis) % len(shape)
            if shape[positive].is_static:
                order = np.arange(shape[positive].get_length() - 1, -1, -1)
            else:
                last = op.subtract(op.gather(op.shape_of(tensor), positive, 0), np.int64(1))
                order = op.range(last, np.int64(-1), np.int64(-1), "i64")
            tensor = op.gather(tensor, order, np.int64(positive)).output(0)
        return [tensor]

    return {"ReverseV2": reverse}
