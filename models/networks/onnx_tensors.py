"""Reads the constants of an ONNX file: convolutions' weights by name, with no need to run it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read_onnx_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The initialisers of an ONNX graph by name, each of its own shape and dtype.

    Args:
        path: An ONNX file that holds its tensors itself.

    Raises:
        ValueError: It is not an ONNX file, or its tensors lie in other files.
    """
    # Here and not above: few installations ever read an ONNX file, and onnx takes a while.
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import numpy_helper

    try:
        # Tensors in other files are not followed: a path inside a file is not ours to open.
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path.name} is not an ONNX file: {error}") from error
    tensors = model.graph.initializer
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
        raise ValueError(f"{path.name} keeps its tensors in other files")
    return {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in tensors}
