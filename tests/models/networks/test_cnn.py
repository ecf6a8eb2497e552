import numpy as np
import pytest

from contracts.errors import ModelNotFound, ValidationFailed
from models.networks.cnn import PLANS, cnn, plan_of, smallest_side


@pytest.mark.parametrize(
    ("name", "size", "channels", "classes", "count"),
    [
        # 5*5*1*32+32, 5*5*32*64+64, 7*7*64 -> 1024 -> 256 -> 50 -> 10
        ("cnn_mnist", (28, 28), 1, 10, 832 + 51_264 + 3_212_288 + 262_400 + 12_850 + 510),
        # The published count of the Fashion-MNIST tutorial.
        ("cnn_small", (28, 28), 1, 10, 243_786),
        ("cnn_small", (32, 32), 3, 10, 1_792 + 73_856 + (6 * 6 * 128 + 1) * 128 + 1_290),
        ("cnn_small", (100, 100), 3, 20, 1_792 + 73_856 + (23 * 23 * 128 + 1) * 128 + 2_580),
        ("cnn_pets", (64, 64), 3, 2, 896 + 9_248 + 18_496 + 36_928 + 16_385 * 512 + 1_026),
        (
            "cnn_face", (70, 50), 3, 5,
            2_432 + 51_264 + 204_928 + (5 * 2 * 128 + 1) * 8192 + 8193 * 1024 + 1025 * 128
            + 129 * 60 + 61 * 5,
        ),
    ],
)  # fmt: skip
def test_shapes_and_parameters_equal_the_tutorials(
    name: str, size: tuple[int, int], channels: int, classes: int, count: int
) -> None:
    model = cnn(name, classes=classes, input_shape=(*size, channels))
    assert model.input_shape == (None, *size, channels)
    assert model.output_shape == (None, classes)
    assert model.count_params() == count


@pytest.mark.parametrize("name", sorted(PLANS.keys() - {"cnn_face"}))
def test_smallest_side_is_exact(name: str) -> None:
    side = smallest_side(PLANS[name])
    model = cnn(name, classes=3, input_shape=(side, side + 5, 3))
    output = model(np.zeros((2, side, side + 5, 3), np.float32)).numpy()
    np.testing.assert_allclose(output.sum(-1), 1, atol=1e-5)
    with pytest.raises(ValidationFailed, match=f"at least {side} x {side}"):
        cnn(name, classes=3, input_shape=(side + 5, side - 1, 3))


def test_layers_have_the_names_of_the_tutorials() -> None:
    names = [layer.name for layer in cnn("cnn_pets", classes=2).layers]
    assert names == [
        "image", "conv1", "conv2", "pool1", "drop_pool1", "conv3", "conv4", "pool2",
        "drop_pool2", "flatten", "fc1", "drop_fc1", "predictions",
    ]  # fmt: skip


def test_pets_start_from_a_truncated_normal() -> None:
    kernel = cnn("cnn_pets", classes=2).get_layer("fc1").kernel.numpy()
    assert abs(kernel).max() <= 0.2  # two standard deviations
    assert kernel.std() == pytest.approx(0.088, abs=0.002)  # what truncation leaves of 0.1
    assert not cnn("cnn_pets").get_layer("conv1").bias.numpy().any()
    assert (cnn("cnn_pets").get_layer("fc1").bias.numpy() == 1).all()


def test_dropout_is_the_fraction_that_the_tutorials_drop() -> None:
    def rates(name: str, **options: float) -> dict[str, float]:
        found = cnn(name, **options).layers  # type: ignore[arg-type]
        return {layer.name: layer.rate for layer in found if "drop" in layer.name}

    assert rates("cnn_pets") == {"drop_pool1": 0.8, "drop_pool2": 0.8, "drop_fc1": 0.5}
    assert rates("cnn_pets", pool_dropout=0.2)["drop_pool2"] == 0.2
    three = {"drop_fc1": 0.5, "drop_fc2": 0.5, "drop_fc3": 0.5}
    assert rates("cnn_mnist") == rates("cnn_face") == three


def test_small_is_wider_for_larger_images() -> None:
    assert plan_of("cnn_small").blocks == ((64,), (64,))
    assert plan_of("cnn_small", (32, 32, 3)).blocks == ((64,), (128,))


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ModelNotFound, match="cnn_pets"):
        cnn("cnn_dogs", classes=2)
    with pytest.raises(ValidationFailed, match="classes"):
        cnn("cnn_pets", classes=1)
