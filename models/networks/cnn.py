"""Small networks of classic tutorials, one row each: convolutions and pools, then dense layers.

Layers are named as in those tutorials: `conv1`, `pool1`, `fc1`, ... and `predictions`. TensorFlow 1
asked for the fraction that dropout *keeps*; the rows contain the fraction that is dropped, as in
Keras.
"""

from dataclasses import dataclass
from typing import Literal

import keras
from keras import layers

from contracts.errors import ModelNotFound, ValidationFailed


@dataclass(frozen=True, slots=True)
class Plan:
    """One row of the table.

    Attributes:
        blocks: Filters of the convolutions before each 2x2 pool.
        kernel: Side of the kernels in pixels.
        dense: Units of the dense layers between the last pool and the output.
        input_size: Default (height, width) of the input in pixels.
        pool_dropout: Rate after each pool.
        dense_dropout: Rate after each of the first dense layers.
        stddev: Standard deviation of the truncated normal for initial kernels; None for Glorot's
            uniform distribution.
        dense_bias: Initial bias of the dense layers; that of convolutions is 0.
        output: Activation of the output layer: ``sigmoid`` gives each class one of its own.
    """

    blocks: tuple[tuple[int, ...], ...]
    kernel: int
    padding: Literal["same", "valid"]
    dense: tuple[int, ...]
    input_size: tuple[int, int]
    pool_dropout: float = 0.0
    dense_dropout: tuple[float, ...] = ()
    stddev: float | None = None
    dense_bias: float = 0.0
    output: Literal["softmax", "sigmoid"] = "softmax"


PLANS: dict[str, Plan] = {
    "cnn_mnist": Plan(
        ((32,), (64,)),
        5,
        "same",
        (1024, 256, 50),
        input_size=(28, 28),
        dense_dropout=(0.5, 0.5, 0.5),
    ),
    "cnn_small": Plan(((64,), (64,)), 3, "valid", (128,), input_size=(28, 28)),
    "cnn_small_wide": Plan(((64,), (128,)), 3, "valid", (128,), input_size=(32, 32)),
    "cnn_pets": Plan(
        ((32, 32), (64, 64)),
        3,
        "same",
        (512,),
        input_size=(64, 64),
        pool_dropout=0.8,
        dense_dropout=(0.5,),
        stddev=0.1,
        dense_bias=1.0,
    ),
    "cnn_face": Plan(
        ((32,), (64,), (128,)),
        5,
        "valid",
        (8192, 1024, 128, 60),
        input_size=(70, 50),
        dense_dropout=(0.5, 0.5, 0.5),
        output="sigmoid",
    ),
}


def plan_of(name: str, input_shape: tuple[int, int, int] | None = None) -> Plan:
    """The row of that name; for images larger than MNIST's, `cnn_small` is the wider variant.

    Raises:
        ModelNotFound: There is no such row.
    """
    if name not in PLANS:
        raise ModelNotFound(f"There is no network '{name[:64]}'. Known: {', '.join(PLANS)}.")
    if name == "cnn_small" and max((input_shape or (0, 0))[:2]) > max(PLANS[name].input_size):
        return PLANS["cnn_small_wide"]
    return PLANS[name]


def cnn(
    name: str,
    *,
    input_shape: tuple[int, int, int] | None = None,
    classes: int = 10,
    include_top: bool = True,
    pool_dropout: float | None = None,
) -> keras.Model:
    """Build a network of the table with random weights.

    Args:
        name: A row of `PLANS`.
        input_shape: (height, width, channels) of the input, 3 channels for color and 1 for
            gray; by default the tutorial's size in color.
        classes: Size of the output, at least 2.
        include_top: Whether the dense layers follow the last pool.
        pool_dropout: Rate after each pool; None for the tutorial's.

    Returns:
        float32 (n, height, width, channels) to probabilities (n, classes), or to the last maps.

    Raises:
        ModelNotFound: There is no such row.
        ValidationFailed: The images are too small for its pools, or there are fewer than 2 classes.
    """
    plan = plan_of(name, input_shape)
    shape = input_shape or (*plan.input_size, 3)
    _check(name, plan, shape[:2], classes)
    x = image = keras.Input(shape, name="image")
    x = _convolutions(plan, x, plan.pool_dropout if pool_dropout is None else pool_dropout)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        start = _start(plan, plan.dense_bias)
        for number, units in enumerate(plan.dense, 1):
            x = layers.Dense(units, "relu", name=f"fc{number}", **start)(x)
            if number <= len(plan.dense_dropout):
                x = layers.Dropout(plan.dense_dropout[number - 1], name=f"drop_fc{number}")(x)
        x = layers.Dense(classes, plan.output, name="predictions", **start)(x)
    return keras.Model(image, x, name=name)


def _convolutions(plan: Plan, x: keras.KerasTensor, pool_dropout: float) -> keras.KerasTensor:
    number = 0
    for block, filters in enumerate(plan.blocks, 1):
        for count in filters:
            number += 1
            x = layers.Conv2D(
                count, plan.kernel, padding=plan.padding, activation="relu",
                name=f"conv{number}", **_start(plan, 0.0),
            )(x)  # fmt: skip
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
        if pool_dropout:
            x = layers.Dropout(pool_dropout, name=f"drop_pool{block}")(x)
    return x


def _start(plan: Plan, bias: float) -> dict[str, keras.initializers.Initializer]:
    """Initializers: those of the TensorFlow 1 tutorials, or Keras's defaults."""
    if plan.stddev is None:
        return {}
    return {
        "kernel_initializer": keras.initializers.TruncatedNormal(stddev=plan.stddev),
        "bias_initializer": keras.initializers.Constant(bias),
    }


def smallest_side(plan: Plan) -> int:
    """The smallest side of the input, in pixels, for which one remains after the last pool."""
    side = 1
    for filters in reversed(plan.blocks):
        side *= 2
        side += len(filters) * (plan.kernel - 1) * (plan.padding == "valid")
    return side


def _check(name: str, plan: Plan, size: tuple[int, int], classes: int) -> None:
    if classes < 2:
        raise ValidationFailed(f"A network needs at least 2 classes, not {classes}.")
    if min(size) < (minimum := smallest_side(plan)):
        raise ValidationFailed(
            f"{name} takes images of at least {minimum} x {minimum} pixels, "
            f"not {size[0]} x {size[1]}; choose a larger input size."
        )
