"""The small networks of the classic tutorials, one row each: convolutions and pools, then dense.

Layers are called as in those tutorials: `conv1`, `pool1`, `fc1`, ... and `predictions`. Where
one of them speaks of a dropout of 0.8 in TensorFlow 1, the number is what is *kept*; the rows
hold the rate at which units are dropped, as Keras does.
"""

from dataclasses import dataclass
from typing import Literal

import keras
from keras import layers

from contracts.errors import ModelNotFound, ValidationFailed


@dataclass(frozen=True, slots=True)
class Plan:
    """A row: what is stacked on what.

    Attributes:
        blocks: Filters of the convolutions before each 2x2 pool.
        kernel: Side of the kernels in pixels.
        padding: Keras's name for it.
        dense: Units of the dense layers between the last pool and the output.
        input_size: (height, width) of the input in pixels, unless another is asked for.
        pool_dropout: Rate after each pool.
        dense_dropout: Rate after the first dense layer.
        stddev: Of the truncated normal that kernels start from; None for Glorot's uniform.
    """

    blocks: tuple[tuple[int, ...], ...]
    kernel: int
    padding: Literal["same", "valid"]
    dense: tuple[int, ...]
    input_size: tuple[int, int]
    pool_dropout: float = 0.0
    dense_dropout: float = 0.0
    stddev: float | None = None


PLANS: dict[str, Plan] = {
    "cnn_mnist": Plan(
        ((32,), (64,)), 5, "same", (1024, 256, 50), input_size=(28, 28), dense_dropout=0.5
    ),
    "cnn_small": Plan(((64,), (64,)), 3, "valid", (128,), input_size=(28, 28)),
    "cnn_small_wide": Plan(((64,), (128,)), 3, "valid", (128,), input_size=(32, 32)),
    "cnn_pets": Plan(
        ((32, 32), (64, 64)),
        3,
        "same",
        (512,),
        input_size=(64, 64),
        pool_dropout=0.2,
        dense_dropout=0.5,
        stddev=0.1,
    ),
    "cnn_face": Plan(((32,), (64,), (128,)), 5, "same", (8192, 1024, 128, 60), input_size=(70, 50)),
}


def plan_of(name: str, input_shape: tuple[int, int, int] | None = None) -> Plan:
    """The row of that name; `cnn_small` is the wider one for pictures larger than MNIST's.

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
) -> keras.Model:
    """One of the rows with random weights.

    Args:
        name: A row of `PLANS`.
        input_shape: (height, width, channels) of the input, 3 channels for color and 1 for
            grey; left out, the tutorial's size in color.
        classes: Size of the softmax, at least 2.
        include_top: Whether the dense layers follow the last pool.

    Returns:
        float32 (n, height, width, channels) to probabilities (n, classes), or to the last maps.

    Raises:
        ModelNotFound: There is no such row.
        ValidationFailed: The pictures are too small for its pools, or there are no two classes.
    """
    plan = plan_of(name, input_shape)
    shape = input_shape or (*plan.input_size, 3)
    _check(name, plan, shape[:2], classes)
    x = image = keras.Input(shape, name="image")
    x = _convolutions(plan, x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for number, units in enumerate(plan.dense, 1):
            x = layers.Dense(units, "relu", name=f"fc{number}", **_start(plan))(x)
            if number == 1 and plan.dense_dropout:
                x = layers.Dropout(plan.dense_dropout, name="drop_fc1")(x)
        x = layers.Dense(classes, "softmax", name="predictions", **_start(plan))(x)
    return keras.Model(image, x, name=name)


def _convolutions(plan: Plan, x: keras.KerasTensor) -> keras.KerasTensor:
    number = 0
    for block, filters in enumerate(plan.blocks, 1):
        for count in filters:
            number += 1
            x = layers.Conv2D(
                count, plan.kernel, padding=plan.padding, activation="relu",
                name=f"conv{number}", **_start(plan),
            )(x)  # fmt: skip
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
        if plan.pool_dropout:
            x = layers.Dropout(plan.pool_dropout, name=f"drop_pool{block}")(x)
    return x


def _start(plan: Plan) -> dict[str, keras.initializers.Initializer]:
    """Where the weights start: as in the tutorials of TensorFlow 1, or as Keras has it."""
    if plan.stddev is None:
        return {}
    return {
        "kernel_initializer": keras.initializers.TruncatedNormal(stddev=plan.stddev),
        "bias_initializer": keras.initializers.Constant(plan.stddev),
    }


def smallest_side(plan: Plan) -> int:
    """The fewest pixels a side of the input may have so that one is left after the last pool."""
    side = 1
    for filters in reversed(plan.blocks):
        side *= 2
        side += len(filters) * (plan.kernel - 1) * (plan.padding == "valid")
    return side


def _check(name: str, plan: Plan, size: tuple[int, int], classes: int) -> None:
    if classes < 2:
        raise ValidationFailed(f"A network needs at least 2 classes, not {classes}.")
    if min(size) < (least := smallest_side(plan)):
        raise ValidationFailed(
            f"{name} takes pictures of at least {least} x {least} pixels, "
            f"not {size[0]} x {size[1]}; choose a larger input size."
        )
