import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from models.networks.architecture import ARCHITECTURES
from models.networks.keras_files import UnsafeModelError, read_whole, write_tutorial_weights
from models.networks.loading import WeightsMismatchError, load_weights
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

NAMES = ["squeezenet", "cnn_pets", "vgg19_bn", "efficientnet_lite0"]
SHAPE = (67, 67, 3)


def made(name: str, *, seed: int = 8) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return ARCHITECTURES[name].build(input_shape=SHAPE, classes=3, include_top=True)


def same(one: keras.Model, other: keras.Model) -> None:
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def read(model: keras.Model, path: Path) -> None:
    load_weights(model, model.name, path, "keras_h5")


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_layer_is_read_back(name: str, tmp_path: Path) -> None:
    model = made(name)
    model.save(tmp_path / "m.keras")
    back = read_whole(tmp_path / "m.keras")
    same(back, model)
    assert back.to_json() == model.to_json()


@pytest.mark.parametrize("name", NAMES[:2])
def test_tutorial_weights_are_read_back(name: str, tmp_path: Path) -> None:
    model, other = made(name), made(name, seed=9)
    write_tutorial_weights(model, tmp_path / "m.h5")
    read(other, tmp_path / "m.h5")
    same(other, model)


def test_published_files_are_read(shared: Path) -> None:
    folder = shared / "weights"
    squeezenet = ARCHITECTURES["squeezenet"].build()
    for file in (
        "squeezenet_weights_tf_dim_ordering_tf_kernels.h5",  # names with a slash
        "squeezenet_weights_keras3.h5",
    ):
        read(squeezenet, folder / file)
        with h5py.File(folder / "squeezenet_weights_keras3.h5") as h5:
            kernel = h5["fire9_expand3x3/fire9_expand3x3/kernel:0"][()]
        np.testing.assert_array_equal(squeezenet.get_layer("fire9_expand3x3").kernel, kernel)
    vgg = ARCHITECTURES["vgg16"].build(input_shape=SHAPE, include_top=False)
    base = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    read(vgg, folder / base)
    theirs = keras.applications.VGG16(
        include_top=False, weights=str(folder / base), input_shape=SHAPE
    )
    for mine, other in zip(vgg.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    inputs = np.random.default_rng(8).normal(0, 60, (2, *SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(vgg(inputs), theirs(inputs))
    whole_vgg = ARCHITECTURES["vgg16"].build(input_shape=SHAPE, classes=2)
    with pytest.raises(WeightsMismatchError, match="fc1"):
        read(whole_vgg, folder / base)


def test_base_is_loaded_from_the_file_of_the_whole_network(tmp_path: Path) -> None:
    model = made("cnn_pets")
    write_tutorial_weights(model, tmp_path / "m.h5")
    base = ARCHITECTURES["cnn_pets"].build(input_shape=SHAPE, include_top=False)
    read(base, tmp_path / "m.h5")
    np.testing.assert_array_equal(base.get_layer("conv4").kernel, model.get_layer("conv4").kernel)


HOSTILE = {
    "lambda": {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "x"}},
    "fetch": {"module": "keras.utils", "class_name": "get_file", "config": {}},
    "function": {"module": "builtins", "class_name": "function", "config": "eval"},
    "system": {"module": "os", "class_name": "system", "config": {"command": "true"}},
    "nameless": {"class_name": "system", "config": {}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_architecture_is_refused(what: str, tmp_path: Path) -> None:
    model = made("cnn_pets")
    config = json.loads(model.to_json())
    config["config"]["layers"][1]["config"]["kernel_initializer"] = HOSTILE[what]
    model.save(tmp_path / "good.keras")
    with (
        zipfile.ZipFile(tmp_path / "good.keras") as good,
        zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad,
    ):
        for name in good.namelist():
            content = json.dumps(config).encode() if name == "config.json" else good.read(name)
            bad.writestr(name, content)
    with pytest.raises(UnsafeModelError, match="other than Keras"):
        read_whole(tmp_path / "bad.keras")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\x80\x04."])
def test_invalid_file_is_refused(content: bytes, tmp_path: Path) -> None:
    for name in ("m.keras", "m.h5"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnsafeModelError):
            read_whole(tmp_path / name)
