"""Reads the constants of an ONNX file by name, without running it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read_onnx_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The initializers of an ONNX graph by name, each with its own shape and dtype.

    Raises:
        ValueError: It is not an ONNX file, or its tensors are in other files.
    """
    # Imported here because few installations ever read an ONNX file, and the import is slow.
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import numpy_helper

    try:
        # References to other files are not followed, since a path in a file cannot be trusted.
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError(f"{path.name} is not an ONNX file: {error}") from error
    tensors = model.graph.initializer
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
        raise ValueError(f"{path.name} keeps its tensors in other files")
    return {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in tensors}
