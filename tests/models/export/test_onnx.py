from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx.reference import ReferenceEvaluator

from models.catalog import Preprocessing
from models.export.onnx import UnknownLayerError, write_onnx
from models.networks.architecture import ARCHITECTURES
from models.networks.preprocessing import preprocess
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored


def with_random_weights(model: keras.Model) -> keras.Model:
    """With norms that do something: fresh ones pass everything on."""
    dice = np.random.default_rng(8)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([dice.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("squeezenet", "caffe", (67, 67, 3)),
        ("efficientnet_lite0", "lite", (33, 32, 3)),
        ("vgg19_bn", "unit", (32, 32, 3)),
        ("cnn_small", "unit", (28, 28, 1)),
        ("cnn_pets", "unit", (16, 24, 3)),
    ],
)
def test_onnx_gives_the_output_of_keras(
    name: str, kind: Preprocessing, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    keras.utils.set_random_seed(8)
    model = ARCHITECTURES[name].build(input_shape=shape, classes=7, include_top=True)
    write_onnx(with_random_weights(model), kind, tmp_path / "model.onnx")
    images = np.random.default_rng(8).integers(0, 256, (2, *shape[:2], 3), np.uint8)
    inputs = preprocess(kind, images).numpy()
    if shape[2] == 1:
        inputs = inputs @ np.array([[0.299], [0.587], [0.114]], np.float32)
    session = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"images": images})
    np.testing.assert_allclose(found, model(inputs), atol=1e-4)


def test_centering_and_the_maximum_are_exported(tmp_path: Path) -> None:
    keras.utils.set_random_seed(8)
    image = keras.Input((8, 8, 3))
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 1, 2], name="centering")(image)
    x = layers.GlobalMaxPooling2D(name="head_pool")(layers.Conv2D(4, 3, name="conv1")(x))
    model = keras.Model(image, layers.Dense(3, "softmax", name="predictions")(x))
    write_onnx(model, "unit", tmp_path / "model.onnx")
    images = np.random.default_rng(8).integers(0, 256, (2, 8, 8, 3), np.uint8)
    session = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"images": images})
    np.testing.assert_allclose(found, model(preprocess("unit", images)), atol=1e-5)


def test_single_sigmoid_becomes_two_classes(tmp_path: Path) -> None:
    keras.utils.set_random_seed(8)
    image = keras.Input((8, 8, 3))
    x = layers.Dense(1, "sigmoid", name="predictions")(layers.Flatten(name="flatten")(image))
    model = keras.Model(image, x)
    write_onnx(model, "unit", tmp_path / "model.onnx")
    images = np.random.default_rng(8).integers(0, 256, (3, 8, 8, 3), np.uint8)
    session = ReferenceEvaluator(onnx.load(tmp_path / "model.onnx"))
    (found,) = session.run(None, {"images": images})
    second = model(images / 255).numpy()
    np.testing.assert_allclose(found, np.concatenate([1 - second, second], axis=1), atol=1e-5)


def test_unknown_layer_is_named(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    x = layers.UpSampling2D(name="larger")(image)
    with pytest.raises(UnknownLayerError, match="larger: UpSampling2D"):
        write_onnx(keras.Model(image, x), "unit", tmp_path / "model.onnx")
