import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.training.loop.hardware import Hardware
from models.training.loop.learner import Batch, Learner, Objective
from tests.models import keras_warnings

pytestmark = keras_warnings.ignored

ROOT = Path(__file__).resolve().parents[4]


def tiny(
    scale: float = 1.0, dropout: float = 0.0, last: tuple[int, str] = (2, "softmax")
) -> keras.Model:
    keras.utils.set_random_seed(8)
    x = given = keras.Input((4,))
    x = keras.layers.Dense(5, "relu", name="fc")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="drop")(x)
    model = keras.Model(given, keras.layers.Dense(*last, name="out")(x))
    model.set_weights([weight * scale for weight in model.get_weights()])
    return model


def learner(model: keras.Model, **options: Any) -> Learner:
    hardware = Hardware("float32", tf.distribute.get_strategy(), ("CPU",))
    given = {"preprocess": lambda x: x, "hardware": hardware} | {
        name: options.pop(name) for name in ("preprocess", "hardware") if name in options
    }
    objective = Objective(**{"optimizer": "sgd", "learning_rate": 0.1} | options)
    return Learner(model, objective=objective, **given)


def batch(count: int = 4, *, mask: Any = None, weights: Any = None) -> Batch:
    rng = np.random.default_rng(8)
    ones = np.ones(count, np.float32)
    return Batch(
        (rng.normal(size=(count, 4)).astype(np.float32),),
        (np.arange(count) % 2).astype(np.int32),
        ones if mask is None else np.array(mask, np.float32),
        ones if weights is None else np.array(weights, np.float32),
    )


def weights_after_a_step(given: Batch, **options: Any) -> list[np.ndarray]:
    model = tiny()
    learner(model, **options).step(given, 0.1)
    weights: list[np.ndarray] = model.get_weights()
    return weights


def equal(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, atol=1e-7) for a, b in zip(left, right, strict=True))


def test_steps_lower_the_loss_and_count_correct_predictions() -> None:
    model = tiny()
    one, given = learner(model), batch(16)
    losses = [one.step(given, 0.1) for _ in range(60)]
    assert losses[-1][0] < 0.7 * losses[0][0]
    probabilities = one.predict(given.inputs)
    assert one.step(given, 0.0)[1] == (probabilities.argmax(1) == given.truth).sum()


def test_padding_has_no_effect() -> None:
    full, part = batch(6, mask=[1, 1, 1, 1, 0, 0]), batch(6)
    part = Batch((part.inputs[0][:4],), part.truth[:4], part.mask[:4], part.weights[:4])
    assert equal(weights_after_a_step(full), weights_after_a_step(part))
    assert not equal(weights_after_a_step(full), weights_after_a_step(batch(6)))


def test_class_with_weight_0_has_no_effect() -> None:
    weighed = weights_after_a_step(batch(4, weights=[0, 1, 0, 1]))
    assert equal(weighed, weights_after_a_step(batch(4, mask=[0, 1, 0, 1], weights=[0.5] * 4)))


def test_sigmoid_is_equivalent_to_a_softmax_of_two() -> None:
    """sigmoid(z) equals softmax(0, z), with the same loss, gradient and predictions."""
    one, two = tiny(last=(1, "sigmoid")), tiny()
    kernel, bias = one.get_layer("out").get_weights()
    two.get_layer("fc").set_weights(one.get_layer("fc").get_weights())
    two.get_layer("out").set_weights([np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))])
    given = batch(8, weights=[1, 2] * 4)
    learners = [learner(one), learner(two)]
    predictions = [each.predict(given.inputs) for each in learners]
    np.testing.assert_allclose(*predictions, atol=1e-6)
    results = [each.step(given, 0.1) for each in learners]
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    fc = [model.get_layer("fc").get_weights() for model in (one, two)]
    assert equal(*fc)


@pytest.mark.parametrize("last", [(2, "softmax"), (1, "sigmoid")])
def test_confident_wrong_predictions_have_a_gradient(last: tuple[int, str]) -> None:
    model = tiny(scale=100, last=last)
    one, given = learner(model), batch(8)
    wrong = Batch(given.inputs, 1 - one.predict(given.inputs).argmax(1).astype(np.int32),
                  given.mask, given.weights)  # fmt: skip
    before = model.get_weights()
    one.step(wrong, 0.1)
    moved = [np.abs(a - b).max() for a, b in zip(model.get_weights(), before, strict=True)]
    assert min(moved) > 1e-2


def test_l2_replaces_the_penalties_of_the_network() -> None:
    def after(l2: float | None, *, own: bool) -> list[np.ndarray]:
        keras.utils.set_random_seed(8)
        penalty = keras.regularizers.L2(0.25) if own else None
        given = keras.Input((4,))
        last = keras.layers.Dense(2, "softmax", kernel_regularizer=penalty, name="out")
        model = keras.Model(given, last(given))
        learner(model, l2=l2).step(batch(), 0.1)
        weights: list[np.ndarray] = model.get_weights()
        return weights

    assert equal(after(None, own=True), after(0.25, own=False))
    assert equal(after(0.5, own=True), after(0.5, own=False))
    assert equal(after(0.0, own=True), after(None, own=False))
    assert not equal(after(None, own=True), after(None, own=False))


def test_independent_outputs_are_trained_with_binary_cross_entropy() -> None:
    model = tiny(last=(2, "sigmoid"))
    one, given = learner(model, independent=True), batch()
    outputs = model(given.inputs[0]).numpy()
    right = np.where(np.eye(2)[given.truth] == 1, outputs, 1 - outputs)
    loss, _ = one.step(given, 0.1)
    assert loss == pytest.approx(-np.log(right).mean(axis=1).sum(), rel=1e-5)
    assert one.predict(given.inputs).shape == (4, 2)


def test_momentum_reaches_the_optimizer() -> None:
    plain = Objective("sgd", 0.1).build_optimizer()
    still = Objective("sgd", 0.1, momentum=0.0).build_optimizer()
    assert (plain.momentum, plain.nesterov) == (0.9, True)
    assert (still.momentum, still.nesterov) == (0.0, False)
    assert Objective("rmsprop", 0.1, momentum=0.5).build_optimizer().momentum == 0.5


def test_l2_shrinks_kernels_but_not_biases() -> None:
    free, drawn = weights_after_a_step(batch()), weights_after_a_step(batch(), l2=0.5)
    for number, (without, with_l2, first) in enumerate(
        zip(free, drawn, tiny().get_weights(), strict=True)
    ):
        # d/dw 0.5 w^2 = w, times the rate of 0.1 and Nesterov's 1 + 0.9
        pull = 0.19 * first if number % 2 == 0 else 0 * first
        np.testing.assert_allclose(with_l2, without - pull, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_restored_learner_continues_bit_identically(optimizer: str) -> None:
    undisturbed, other = tiny(dropout=0.5), tiny(dropout=0.5)
    one, given = learner(undisturbed, optimizer=optimizer), batch(8)
    for _ in range(3):
        one.step(given, 0.01)
    two = learner(other, optimizer=optimizer)
    two.step(batch(8, weights=[3] * 8), 0.5)  # gives it another state
    two.restore(one.learned())
    two.restore_optimizer(one.optimizer_state())
    results = [[it.step(given, 0.01) for _ in range(3)] for it in (one, two)]
    assert results[0] == results[1]
    for left, right in zip(undisturbed.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_step_is_traced_once() -> None:
    traces = []
    one = learner(tiny(), preprocess=lambda x: traces.append(0) or x)
    for count in (1, 2, 3):
        one.step(batch(4, mask=[1] * count + [0] * (4 - count)), 0.1 / count)
    assert len(traces) == 1


MIRRORED = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from models.training.loop.hardware import Hardware
from tests.models.training.loop import test_learner as t
def run(strategy):
    hardware = Hardware("float32", strategy, ("CPU",))
    with hardware.building():
        model = t.tiny()
    learner = t.learner(model, hardware=hardware, l2=0.1)
    given = t.batch(8, mask=[1] * 5 + [0] * 3)
    results = [learner.step(given, 0.1) for _ in range(3)]
    return results, model.get_weights(), hardware.replicas
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
one, two = run(tf.distribute.get_strategy()), run(mirrored)
assert (one[2], two[2]) == (1, 2)
assert all(abs(a - b) < 1e-5 for x, y in zip(one[0], two[0]) for a, b in zip(x, y)), (one, two)
assert t.equal(one[1], two[1]), (one, two)
"""


@pytest.mark.slow
def test_two_devices_train_like_one() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", MIRRORED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
