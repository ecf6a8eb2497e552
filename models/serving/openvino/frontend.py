"""How OpenVINO reads our SavedModels, so that what it reads runs quickly.

What `tf.reverse` becomes there by itself runs in a slow reference kernel: turning RGB into BGR took
a third of SqueezeNet's time. A gather in a constant order says the same, and OpenVINO folds it into
the weights of the convolution behind it.

OpenVINO and NNCF, imported so that they report to nobody.

Both bring `openvino_telemetry`, which posts to Google Analytics unless the user has opted out in
a file of their home directory. Opsin opens no connection that it was not told to open. A module
that cannot be imported is one that both libraries are ready for: they take stubs in its place.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

Node = Any
"""An operation of TensorFlow's graph with its inputs converted; OpenVINO ships no types for it."""

Convert = Callable[[Node], list[Any]]


def reading_core(openvino: Any) -> Any:
    """A `Core` of the `openvino` module that reads with our `conversions`."""
    from openvino.frontend.tensorflow import ConversionExtension  # only who serves

    core = openvino.Core()
    for name, convert in conversions(openvino.opset13).items():
        core.add_extension(ConversionExtension(name, convert))
    return core


def conversions(op: Any) -> dict[str, Convert]:
    """What to do with operations of TensorFlow's that OpenVINO reads badly, by their names.

    Args:
        op: `openvino.opset13`, imported by who runs it.
    """

    def reverse(node: Node) -> list[Any]:
        """Along axes that the graph names."""
        tensor, axes = node.get_input(0), node.get_input(1).get_node().get_data()
        shape = tensor.get_partial_shape()
        for axis in axes.ravel():
            at = int(axis) % len(shape)
            if shape[at].is_static:
                backwards = np.arange(shape[at].get_length() - 1, -1, -1)
            else:
                last = op.subtract(op.gather(op.shape_of(tensor), at, 0), np.int64(1))
                backwards = op.range(last, np.int64(-1), np.int64(-1), "i64")
            tensor = op.gather(tensor, backwards, np.int64(at)).output(0)
        return [tensor]

    return {"ReverseV2": reverse}


_REFUSED = "openvino_telemetry"


def import_openvino() -> ModuleType:
    """The `openvino` module.

    Raises:
        ImportError: It is not installed.
    """
    _refuse_telemetry()
    import openvino  # half a second, and only where it serves

    return openvino  # type: ignore[no-any-return]


def import_nncf() -> ModuleType:
    """The `nncf` module.

    Raises:
        ImportError: It is not installed.
    """
    _refuse_telemetry()
    import nncf  # seconds, and only for a quantization

    return nncf  # type: ignore[no-any-return]


def _refuse_telemetry() -> None:
    # None in sys.modules is Python's own way to say that a module cannot be imported.
    sys.modules.setdefault(_REFUSED, None)  # type: ignore[arg-type]
