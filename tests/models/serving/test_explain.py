"""OpenVINO explains as TensorFlow does, tape and all, or is not let near a request."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from contracts.inference.manifest import Endpoint
from models.export.signatures import Blueprint
from models.serving import explain
from models.serving.explain import ExplainEndpoints
from models.serving.openvino import graph
from models.serving.openvino.runtime import OpenVinoExplainer
from models.serving.parity_gate import find_heatmap_deviation
from models.serving.predictor import VersionPredictor
from models.serving.reference import Reference
from models.serving.runtime import Precision, RuntimeOptions
from models.serving.selection import choose_runtime
from models.store.manifest import read_manifest
from tests.models import keras_warnings
from tests.models.explain.versions import SIDE, published

pytestmark = keras_warnings.ignored

PICTURES = np.random.default_rng(9).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
CLASSES = np.array([0, 1, -1, 1, 0], np.int32)
EXACT = RuntimeOptions("openvino", "float32", 1)
TAILS: dict[str, list[keras.Layer]] = {
    "pool, then all": [
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(8, "relu"),
        layers.Dense(3, "softmax"),
    ],
    "all at once": [layers.Flatten(), layers.Dense(3, "softmax")],
    "pool upon pool": [
        layers.MaxPooling2D((2, 1)),
        layers.Conv2D(6, 1, activation="relu"),
        layers.MaxPooling2D((1, 2)),
        layers.Flatten(),
        layers.Dense(3, "softmax"),
    ],
    "cut off at six": [
        layers.Conv2D(7, 1, use_bias=False),
        layers.ReLU(6.0),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Flatten(),
        layers.Dense(3, "softmax"),
    ],
    "one sigmoid": [layers.GlobalAveragePooling2D(), layers.Dense(1, "sigmoid")],
    "as SqueezeNet": [
        layers.Dropout(0.5),
        layers.Conv2D(3, 1, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Softmax(),
    ],
    "wide convolutions": [
        layers.Conv2D(6, 3, padding="same", activation="relu"),
        layers.Conv2D(4, (1, 3), strides=2, padding="same", activation="relu"),
        layers.Conv2D(4, 2, activation="relu"),
        layers.Flatten(),
        layers.Dense(3, "softmax"),
    ],
    "normalized": [
        layers.Conv2D(6, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(6.0),
        layers.MaxPooling2D((2, 4)),
        layers.GlobalMaxPooling2D(),
        layers.Dense(4, "softmax"),
    ],
}


def network(tail: list[keras.Layer], name: str = "conv2") -> keras.Model:
    keras.utils.set_random_seed(3)
    x = image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(4, 3, activation="relu", padding="same", name="conv1")(x)
    x = layers.Conv2D(5, 3, activation="relu", padding="same", name=name)(x)
    for layer in tail:
        x = layer.__class__.from_config(layer.get_config())(x)
    return keras.Model(image, x)


def version(root: Path, tail: list[keras.Layer]) -> Path:
    blueprint = Blueprint("cnn_small", SIDE, "cover", "unit", "conv2", "conv2")
    return published(root, network(tail), "tiny", blueprint)


def loaded(folder: Path, options: RuntimeOptions = EXACT) -> ExplainEndpoints:
    manifest = read_manifest(folder)
    served = choose_runtime(folder, manifest, options).runtime
    explains = ExplainEndpoints(folder, manifest, served, options)
    for endpoint in ("explain", "explain_hires"):
        explains.load(endpoint, (1, 2, 4))
    return explains


@pytest.mark.parametrize("tail", TAILS)
def test_openvino_heatmaps_equal_tensorflows(tail: str, tmp_path: Path) -> None:
    folder = version(tmp_path, TAILS[tail])
    explainer = loaded(folder)
    reference = loaded(folder, RuntimeOptions())
    for endpoint in ("explain", "explain_hires"):
        assert explainer.runtimes[endpoint] == "openvino-float32"
        assert reference.runtimes[endpoint] == "tensorflow-float32"
        expected = reference.explain(endpoint, PICTURES, CLASSES)
        actual = explainer.explain(endpoint, PICTURES, CLASSES)
        assert expected["grid"].any()
        assert actual.keys() == expected.keys()
        for name, array in expected.items():
            assert actual[name].dtype == array.dtype
            np.testing.assert_allclose(actual[name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("tail", ["all at once", "pool, then all"])
def test_grad_cam_uses_spatial_sums(tail: str, tmp_path: Path) -> None:
    """What a flattened product sends back is summed over the places in its weights."""

    def widest_product(endpoint: Endpoint) -> int:
        explainer = OpenVinoExplainer(folder, endpoint, "float32", EXACT)
        products = [one for one in explainer._read().get_ops() if one.get_type_name() == "MatMul"]
        return max(one.get_output_partial_shape(0)[-1].get_length() for one in products)

    folder = version(tmp_path, TAILS[tail])
    flattened = next(
        layer.output.shape[-1]
        for layer in network(TAILS[tail]).layers
        if isinstance(layer, keras.layers.Flatten)
    )
    assert widest_product("explain_hires") == flattened
    assert widest_product("explain") < flattened


def test_unknown_class_has_no_evidence(tmp_path: Path) -> None:
    explainer = loaded(version(tmp_path, TAILS["pool, then all"]))
    outputs = explainer.explain("explain", PICTURES[:2], np.array([3, 2_000_000], np.int32))
    assert not outputs["grid"].any()


def test_parallel_pieces_give_the_same_heatmaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version(tmp_path, TAILS["as SqueezeNet"])
    whole = loaded(folder).explain("explain", PICTURES, CLASSES)
    monkeypatch.setattr(graph, "_deviates", lambda *_: False)  # noise has many ties
    shared = loaded(folder, RuntimeOptions("openvino", "float32", 2))
    for name, array in shared.explain("explain", PICTURES, CLASSES).items():
        np.testing.assert_allclose(array, whole[name], atol=1e-5)


def test_inputs_of_different_lengths_are_refused(tmp_path: Path) -> None:
    explainer = loaded(version(tmp_path, TAILS["one sigmoid"]))
    with pytest.raises(ValueError, match="one length"):
        explainer.explain("explain", PICTURES, CLASSES[:2])


@pytest.mark.parametrize("layer", [layers.MaxPooling2D(3, 2), layers.Conv2D(5, 3, groups=5)])
def test_tensorflow_explains_if_a_gradient_is_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, layer: keras.Layer
) -> None:
    caplog.set_level("INFO")
    tail = [layer, layers.Flatten(), layers.Dense(3, "softmax")]
    explainer = loaded(version(tmp_path, tail))
    assert explainer.runtimes["explain"] == "tensorflow-float32"
    assert "openvino-float32" in caplog.text
    assert explainer.explain("explain", PICTURES, CLASSES)["grid"].any()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_deviating_heatmaps_are_detected(precision: Precision) -> None:
    grids = np.random.default_rng(1).random((4, 5, 5), np.float32)
    serve = np.eye(4, dtype=np.float32)
    reference = Reference(PICTURES[:4], {"serve": serve, "explain": grids})
    classes = np.arange(4, dtype=np.int32)

    def deviation(actual: np.ndarray, target: np.ndarray = classes) -> str | None:
        outputs = {"grid": actual.astype(np.float32), "target": target}
        return find_heatmap_deviation(lambda *_: outputs, "explain", reference, precision)

    assert deviation(grids) is None
    assert "correlation" in (deviation(np.concatenate([grids[:3], grids[3:, ::-1]])) or "")
    assert "correlation" in (deviation(np.concatenate([grids[:3], grids[3:] * 0])) or "")
    assert "not finite" in (deviation(grids * np.nan) or "")
    assert "other classes" in (deviation(grids, classes[::-1]) or "")


def test_tensorflow_explains_if_openvino_deviates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version(tmp_path, TAILS["one sigmoid"])
    monkeypatch.setattr(explain, "find_heatmap_deviation", lambda *_: "it deviates")
    assert loaded(folder).runtimes["explain"] == "tensorflow-float32"


def test_hires_endpoint_is_loaded_on_first_use(tmp_path: Path) -> None:
    folder = version(tmp_path, TAILS["one sigmoid"])
    predictor = VersionPredictor(folder, max_batch_size=2, options=EXACT)
    predictor.load_explain()
    assert predictor.can_explain()
    assert not predictor.can_explain(hires=True)
    assert predictor.explain(PICTURES, CLASSES, hires=True).grids.shape[0] == len(PICTURES)
    assert predictor.can_explain(hires=True)
    assert predictor.explain_runtime == "openvino-float32"


@pytest.mark.slow  # the child imports TensorFlow
def test_reference_without_heatmaps_is_computed_again(tmp_path: Path) -> None:
    folder = version(tmp_path, TAILS["one sigmoid"])
    full = Reference.read(folder / "reference.npz")
    assert full is not None
    vectors: dict[Endpoint, np.ndarray] = {n: full.outputs[n] for n in ("serve", "features")}
    Reference(full.images, vectors).write(folder / "reference.npz")
    assert loaded(folder).runtimes["explain"] == "openvino-float32"
    made = Reference.read(folder / "derived" / "reference.npz")
    assert made is not None
    assert "explain_hires" in made.outputs
