from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from contracts.errors import ValidationFailed
from models.explain.filters import Ascent, Filters, any_size, smallest_side
from models.explain.layer_graph import LayerGraph
from models.networks.squeezenet import squeezenet
from models.training.validation import MIN_IMAGE_SIDES
from tests.models import keras_warnings
from tests.models.explain.versions import tiny

pytestmark = keras_warnings.ignored

SHORT = Ascent(steps=5, image_size=20, seed=8)


@pytest.fixture(scope="module")
def filters() -> Filters:
    return Filters(tiny(), "unit", "conv2")


def test_activation_grows_with_the_number_of_steps(filters: Filters) -> None:
    short = filters.patterns([0, 3, 7], SHORT)
    long = filters.patterns([0, 3, 7], Ascent(steps=40, image_size=20, seed=8))
    assert short.images.shape == (3, 20, 20, 3)
    assert short.images.dtype == np.uint8
    excited = short.activations > 0
    assert excited.any()
    assert (long.activations[excited] > short.activations[excited]).all()


@pytest.mark.parametrize("ending", ["relu", "relu6", "ReLU", "concatenated"])
def test_filter_shut_by_gray_noise_is_opened(ending: str) -> None:
    """Behind a bias of -70 nothing comes back by a rectifier's own gradient."""
    image = keras.Input((16, 16, 3))
    bias = keras.initializers.Constant(-70)
    within = ending if ending.startswith("relu") else None
    x = layers.Conv2D(3, 1, activation=within, kernel_initializer="ones", bias_initializer=bias)
    x = x(layers.Rescaling(40.0)(image))
    if within is None:
        x = layers.ReLU(6.0)(x)
    if ending == "concatenated":
        x = layers.Concatenate()([x, layers.Dropout(0.1)(x)])
    x = layers.Activation("linear", name="target")(x)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    layer_filters = Filters(model, "unit", "target")
    short = layer_filters.patterns([0], Ascent(steps=1, image_size=16))
    long = layer_filters.patterns([0], Ascent(steps=150, image_size=16))
    assert short.activations[0] == 0
    assert not short.blank[0]
    assert long.activations[0] > 0.01


def test_pattern_does_not_depend_on_its_batch(filters: Filters) -> None:
    together = filters.patterns([0, 3, 7], SHORT)
    alone = filters.patterns([3], SHORT)
    difference = together.images[1].astype(int) - alone.images[0].astype(int)
    assert np.abs(difference).max() <= 1


def test_bfloat16_excites_filters_equally(filters: Filters) -> None:
    full = filters.patterns([0, 3, 7], SHORT)
    half = Filters(tiny(), "unit", "conv2", "bfloat16").patterns([0, 3, 7], SHORT)
    assert half.blank.tolist() == full.blank.tolist()
    np.testing.assert_allclose(half.activations, full.activations, rtol=0.05)
    assert (half.activations != full.activations).any(), "it was computed otherwise"


def test_large_requests_run_in_several_batches(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = filters.patterns([1, 2, 5], SHORT)
    monkeypatch.setattr("models.explain.filters._MAX_PIXELS", 2 * 20 * 20)
    fractions: list[float] = []
    parts = filters.patterns([1, 2, 5], SHORT, progress=fractions.append)
    np.testing.assert_allclose(parts.activations, whole.activations, rtol=1e-4)
    assert len(fractions) == 2 * SHORT.steps
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)


def test_contrast_is_the_deviation_of_what_is_shown(filters: Filters) -> None:
    deviations = [
        filters.patterns([1], Ascent(steps=5, image_size=40, contrast=contrast)).images.std() / 255
        for contrast in (0.05, 0.1)
    ]
    assert deviations == pytest.approx([0.05, 0.1], abs=0.005)


def test_octaves_and_jitter_end_at_the_requested_size(filters: Filters) -> None:
    ascent = Ascent(steps=2, image_size=40, octaves=3, jitter=3, seed=8)
    assert ascent.sizes(1) == [20, 29, 40]
    assert ascent.sizes(25) == [25, 29, 40]
    assert filters.patterns([0], ascent).images.shape == (1, 40, 40, 3)


def test_dead_filter_is_blank() -> None:
    model = tiny()
    kernel, bias = model.get_layer("conv2").get_weights()
    kernel[..., 3], bias[3], bias[0] = 0, -1, 1
    model.get_layer("conv2").set_weights([kernel, bias])
    blank = Filters(model, "unit", "conv2").patterns([3, 0], SHORT).blank
    assert blank.tolist() == [True, False]


def test_step_equals_the_tutorials() -> None:
    """One step against NumPy: a 1x1 convolution has the same gradient at every place."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 1, name="conv")(image)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    layer_filters = Filters(model, "unit", "conv")
    start = np.full((1, 6, 6, 3), 100, np.float32)
    after, activation, size = layer_filters._compiled_step(start, [1], 0.9, [2, -1])
    kernel = model.get_layer("conv").get_weights()[0][0, 0, :, 1]
    gradient = np.broadcast_to(kernel / 255 / 36, (1, 6, 6, 3))
    rms = np.sqrt(np.mean(gradient**2))
    np.testing.assert_allclose(size, [rms], rtol=1e-4)
    np.testing.assert_allclose(after, start + 0.9 * gradient / (rms + 1e-5), rtol=1e-4)
    np.testing.assert_allclose(activation, [(kernel * 100 / 255).sum()], rtol=1e-4)


def test_far_from_the_start_steps_share_a_gradient(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half the time, the patterns excite their filters as much."""
    lengths: list[float] = []
    step = filters._compiled_step

    def counted(x: object, numbers: object, length: float, shift: object) -> object:
        lengths.append(float(length))
        return step(x, numbers, length, shift)

    ascent = Ascent(steps=50, image_size=20, step_size=0.5, seed=8)
    monkeypatch.setattr(filters, "_compiled_step", counted)
    fractions: list[float] = []
    shared = filters.patterns([0, 3, 7], ascent, progress=fractions.append)
    assert sum(lengths) == pytest.approx(25), "as far as fifty steps"
    assert lengths[:4] == lengths[-4:] == [0.5] * 4
    assert len(lengths) < 25
    assert fractions[-1] == 1
    monkeypatch.setattr("models.explain.filters.shared_steps", lambda *_: 1)
    exact = filters.patterns([0, 3, 7], ascent)
    excited = exact.activations > 0
    assert excited.any()
    assert (shared.activations[excited] > 0.8 * exact.activations[excited]).all()
    short = list[float]()
    filters.patterns([0], Ascent(steps=5, image_size=20), progress=short.append)
    assert len(short) == 5, "few steps have a gradient each"


def test_filter_that_loses_its_way_ascends_by_single_steps(
    filters: Filters, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [0, 3, 7]
    strongest = numbers[int(filters.patterns(numbers, SHORT).activations.argmax())]
    other = next(number for number in numbers if number != strongest)
    step, calls = filters._compiled_step, list[float]()

    def falling(x: object, numbers: Any, length: float, shift: object) -> tuple[object, ...]:
        x, activations, gradients = step(x, numbers, length, shift)
        calls.append(float(length))
        if len(calls) == 7:  # on a long step, the strongest falls asleep
            activations = activations * [1.0, 0.1]
        return x, activations, gradients

    ascent = Ascent(steps=20, image_size=20, step_size=0.5, seed=8)
    monkeypatch.setattr(filters, "_compiled_step", falling)
    found = filters.patterns([other, strongest], ascent)
    assert calls[-20:] == [0.5] * 20
    monkeypatch.undo()
    monkeypatch.setattr("models.explain.filters.shared_steps", lambda *_: 1)
    exact = filters.patterns([strongest], ascent)
    np.testing.assert_allclose(found.activations[1], exact.activations[0], rtol=1e-3)
    difference = found.images[1].astype(int) - exact.images[0].astype(int)
    assert np.abs(difference).max() <= 1


def test_unknown_filter_is_refused(filters: Filters) -> None:
    with pytest.raises(ValidationFailed, match="0 to 63"):
        filters.patterns([64], SHORT)


def valid() -> keras.Model:
    """Without padding: of fewer than 30 pixels nothing is left after the second convolution."""
    image = keras.Input((64, 64, 3))
    x = layers.MaxPooling2D(4)(layers.Conv2D(2, 3, name="first")(image))
    x = layers.Conv2D(2, 7, name="second")(x)
    return keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def test_octaves_are_not_smaller_than_the_layer_needs() -> None:
    ascent = Ascent(steps=1, image_size=40, octaves=8, octave_scale=4, jitter=64)
    assert Filters(valid(), "unit", "second").patterns([0], ascent).images.shape[1:3] == (40, 40)


def test_error_for_a_small_image_states_the_smallest_size() -> None:
    with pytest.raises(ValidationFailed, match="Send 30 or more"):
        Filters(valid(), "unit", "second").patterns([0], Ascent(steps=1, image_size=29))
    patterns = Filters(valid(), "unit", "second").patterns([0], Ascent(steps=1, image_size=30))
    assert patterns.images.shape == (1, 30, 30, 3)
    Filters(valid(), "unit", "first").patterns([0], Ascent(steps=1, image_size=16))


@pytest.mark.parametrize(
    ("layer", "minimum"), [("conv1", 3), ("pool1", 7), ("pool3", 15), ("fire9_concat", 31)]
)
def test_smallest_side_of_squeezenet_layers(layer: str, minimum: int) -> None:
    graph = LayerGraph.of(squeezenet(classes=2))
    part = any_size(graph.model_to(graph.nodes[layer].output))
    assert smallest_side(part, 512) == minimum
    assert smallest_side(part, minimum) == minimum
    assert smallest_side(part, minimum - 1) is None
    assert MIN_IMAGE_SIDES["squeezenet"] == 31


def test_smallest_side_counts_an_empty_branch() -> None:
    image = keras.Input((None, None, 3))
    cropped = layers.Cropping2D(4)(image)
    part = keras.Model(image, layers.Resizing(8, 8)(cropped))
    assert smallest_side(part, 64) == 9


def test_filter_that_responds_to_the_border_draws_no_frame() -> None:
    """It rises where zeros are padded to a bright image: the border alone raises its mean."""
    image = keras.Input((32, 32, 3))
    kernel = -np.ones((5, 5, 3, 1), np.float32)
    kernel[2, 2] = 16.0
    x = layers.Conv2D(1, 5, padding="same", activation="relu", name="target")
    outputs = layers.Dense(2)(layers.GlobalAveragePooling2D()(x(image)))
    model = keras.Model(image, outputs)
    x.set_weights([kernel, np.zeros(1, np.float32)])
    found = Filters(model, "unit", "target").patterns([0], Ascent(steps=30, image_size=32))
    pattern = found.images[0].astype(float)
    rim = np.ones((32, 32), bool)
    rim[2:-2, 2:-2] = False
    assert pattern[rim].std() < pattern[~rim].std()
    assert abs(pattern[rim].mean() - pattern[~rim].mean()) < 2 * pattern[~rim].std()
