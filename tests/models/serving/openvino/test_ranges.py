"""int8 from stored ranges, on a tiny network whose ranges are set by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from contracts.inference.manifest import Draft
from models.export.saved_model import export_version
from models.export.signatures import Blueprint
from models.serving.openvino import ranges as ranges_module
from models.serving.openvino import runtime as runtime_module
from models.serving.openvino.frontend import converting_core, import_openvino
from models.serving.openvino.ranges import (
    RANGES,
    SEVEN_BITS,
    Activation,
    Ranges,
    published_ranges,
    quantize,
)
from models.serving.openvino.runtime import OpenVinoRuntime
from models.serving.openvino.tensor_digests import digests, edge
from models.serving.runtime import RuntimeOptions, RuntimeUnavailableError
from models.serving.selection import choose_runtime
from models.serving.signature_view import signature_view
from models.store.labels import Label
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

INT8 = RuntimeOptions("openvino", "int8", 1)
IMAGES = np.random.default_rng(8).integers(0, 256, (4, 32, 32, 3), np.uint8)
openvino = import_openvino()


def model(seed: int = 8, head: int = 3, last: str = "conv3") -> keras.Model:
    """Three convolutions as in SqueezeNet, two of them concatenated, below a head."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="conv1")(inputs)
    x = keras.layers.MaxPooling2D(3, 2)(x)
    left = keras.layers.Conv2D(16, 1, activation="relu", name="conv2")(x)
    right = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv3")(x)
    x = keras.layers.Concatenate(name="joined")([left, right])
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.utils.set_random_seed(seed + head)
    return keras.Model(inputs, keras.layers.Dense(head, "softmax", name="predictions")(x))


def exported(network: keras.Model, folder: Path) -> Draft:
    classes = network.output_shape[-1]
    return export_version(
        network,
        Blueprint("cnn_small", 32, "cover", "caffe", "joined", "joined"),
        folder,
        images=IMAGES,
        labels=[Label(str(number), str(number)) for number in range(classes)],
    )


def read(folder: Path, endpoint: str = "serve") -> Any:
    with signature_view(folder / "saved_model", endpoint) as view:
        return converting_core(openvino).read_model(view)


def ranges_of(graph: Any) -> Ranges:
    """Ranges from -256 to 256 before the first convolution and from 0 to 512 before the others."""
    known = digests(graph)
    layers = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Convolution"]
    pools = [node for node in graph.get_ordered_ops() if node.get_type_name() == "MaxPool"]
    named = [known[node.get_name()] for node in layers]
    (pool,) = (known[node.get_name()] for node in pools)
    return Ranges(
        (
            Activation(-256.0, 254.0, 256, (edge(named[0], 0),)),
            Activation(0.0, 512.0, 256, (edge(pool, 0),)),
        ),
        dict.fromkeys(named, SEVEN_BITS),
    )


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Draft]:
    folder = tmp_path_factory.mktemp("version")
    return folder, exported(model(), folder)


@pytest.fixture
def known(version: tuple[Path, Draft], monkeypatch: pytest.MonkeyPatch) -> Ranges:
    """The ranges of `version` are published."""
    found = ranges_of(read(version[0]))
    monkeypatch.setattr(runtime_module, "published_ranges", lambda: found)
    return found


def executed(graph: Any) -> list[tuple[str, str]]:
    """Type and precision of what OpenVINO executes."""
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    return [(str(i["layerType"].value), str(i["runtimePrecision"].value)) for i in infos]


def test_convolutions_and_what_lies_between_them_run_in_int8(version: tuple[Path, Draft]) -> None:
    graph = read(version[0])
    assert quantize(openvino, graph, ranges_of(graph)) == 3
    ran = executed(graph)
    assert [precision for kind, precision in ran if kind == "Convolution"] == ["u8"] * 3
    assert next(precision for kind, precision in ran if kind == "Pooling") == "u8"


@pytest.mark.parametrize(("wide", "share"), [(True, 1.0), (False, 127 / 64)])
def test_weights_have_seven_bits_where_sums_of_eight_overflow(
    version: tuple[Path, Draft], monkeypatch: pytest.MonkeyPatch, wide: bool, share: float
) -> None:
    monkeypatch.setattr(ranges_module, "has_wide_sums", lambda: wide)
    graph = read(version[0])
    quantize(openvino, graph, ranges_of(graph))
    layers = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Convolution"]
    for marked in (layer.input_value(1).get_node() for layer in layers):
        weights, high = (marked.input_value(port).get_node().data for port in (0, 2))
        largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
        np.testing.assert_allclose(high, largest * share, rtol=1e-5)


def test_int8_is_served_without_a_quantized_version_and_agrees(
    version: tuple[Path, Draft], known: Ranges
) -> None:
    folder, draft = version
    choice = choose_runtime(folder, draft, INT8)
    assert (choice.runtime.name, choice.reason) == ("openvino-int8", None)
    exact = OpenVinoRuntime(folder, draft, "float32", INT8)
    for endpoint in ("serve", "features"):
        expected, actual = exact.run(endpoint, IMAGES), choice.runtime.run(endpoint, IMAGES)
        scale = np.abs(expected).max()
        assert 0 < np.abs(expected - actual).max() < 0.05 * scale


def test_a_frozen_base_keeps_its_ranges_and_its_new_head_stays_in_float32(
    version: tuple[Path, Draft], known: Ranges, tmp_path: Path
) -> None:
    network = model(head=2)
    base = model()
    for name in ("conv1", "conv2", "conv3"):
        network.get_layer(name).set_weights(base.get_layer(name).get_weights())
    draft = exported(network, tmp_path)
    graph = read(tmp_path)
    assert quantize(openvino, graph, known) == 3
    marked = [node for node in graph.get_ops() if node.get_type_name() == "MatMul"]
    assert marked[0].input_value(1).get_node().get_type_name() != "FakeQuantize"
    assert choose_runtime(tmp_path, draft, INT8).runtime.name == "openvino-int8"


@pytest.mark.parametrize(("changed", "layers"), [("conv1", 0), ("conv2", 2), ("conv3", 2)])
def test_ranges_belong_to_their_weights_and_all_below_them(
    known: Ranges, tmp_path: Path, changed: str, layers: int
) -> None:
    network = model()
    layer = network.get_layer(changed)
    kernel, bias = layer.get_weights()
    kernel[0, 0, 0, 0] += 1e-6
    layer.set_weights([kernel, bias])
    draft = exported(network, tmp_path)
    graph = read(tmp_path)
    before = len(graph.get_ops())
    assert quantize(openvino, graph, known) == layers
    assert (len(graph.get_ops()) == before) == (layers == 0)
    if layers == 0:
        choice = choose_runtime(tmp_path, draft, INT8)
        assert choice.runtime.name != "openvino-int8"
        assert choice.reason is not None
        assert (
            "openvino-int8: this version is not quantized to int8, and no ranges" in choice.reason
        )
        with pytest.raises(RuntimeUnavailableError, match="no ranges are known"):
            OpenVinoRuntime(tmp_path, draft, "int8", INT8)


def test_wrong_ranges_do_not_pass_the_gate(
    version: tuple[Path, Draft], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, draft = version
    found = ranges_of(read(folder))
    below = tuple(Activation(-512.0, -256.0, 256, row.edges) for row in found.activations)
    monkeypatch.setattr(runtime_module, "published_ranges", lambda: Ranges(below, found.layers))
    choice = choose_runtime(folder, draft, INT8)
    assert choice.runtime.name != "openvino-int8"
    assert choice.reason is not None
    assert "openvino-int8: a probability deviated" in choice.reason


def test_auto_does_not_choose_int8_for_a_version_that_is_not_quantized(
    version: tuple[Path, Draft], known: Ranges
) -> None:
    folder, draft = version
    choice = choose_runtime(folder, draft, RuntimeOptions("openvino", "auto", 1))
    assert choice.runtime.name in {"openvino-bfloat16", "openvino-float32"}


def test_the_published_files_are_read_and_survive_a_round_trip() -> None:
    files = sorted(RANGES.glob("*.json"))
    assert files
    for file in files:
        content = json.loads(file.read_text("utf-8"))
        found = Ranges.parse(content)
        assert found.layers
        assert Ranges.parse(found.content()) == found
        assert found.layers.items() <= published_ranges().layers.items()
        for row in found.activations:
            assert row.low <= 0 < row.high


def test_serving_in_int8_imports_no_nncf() -> None:
    code = (
        "import sys\nimport models.serving.selection\n"
        "from models.serving.openvino.ranges import published_ranges\n"
        "assert published_ranges().layers\n"
        "assert not {'nncf', 'tensorflow', 'keras'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
