from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.networks.onnx_tensors import read_onnx_tensors


def graph_with(tensor: TensorProto) -> onnx.ModelProto:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    node = helper.make_node("Identity", ["w"], ["y"])
    return helper.make_model(helper.make_graph([node], "g", [], [value], [tensor]))


def test_initializers_are_read_by_name(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    onnx.save(graph_with(numpy_helper.from_array(array, "w")), tmp_path / "g.onnx")
    read = read_onnx_tensors(tmp_path / "g.onnx")
    assert list(read) == ["w"]
    np.testing.assert_array_equal(read["w"], array)


def test_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="not an ONNX file"):
        read_onnx_tensors(tmp_path / "g.onnx")


def test_tensors_in_other_files_are_not_followed(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "g.onnx").write_bytes(graph_with(tensor).SerializeToString())
    with pytest.raises(ValueError, match="other files"):
        read_onnx_tensors(tmp_path / "g.onnx")
