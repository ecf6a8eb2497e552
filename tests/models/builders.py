"""One small network, put together in the three ways that Keras has."""

import keras
from keras import layers

SHAPE = (16, 16, 3)


def rows(last: layers.Dense) -> list[keras.Layer]:
    return [
        layers.Conv2D(4, 3, activation="relu", name="conv2"),
        layers.MaxPooling2D(name="pool2"),
        layers.Flatten(name="flatten"),
        last,
    ]


def in_one_row(last: layers.Dense) -> keras.Model:
    x = image = keras.Input(SHAPE)
    for row in rows(last):
        x = row(x)
    return keras.Model(image, x)


def in_another(last: layers.Dense) -> keras.Model:
    """Its first layers as an imported base would hold them."""
    conv, pool, flatten, last = rows(last)
    image, inner = keras.Input(SHAPE), keras.Input(SHAPE)
    base = keras.Model(inner, pool(conv(inner)), name="base")
    return keras.Model(image, last(flatten(base(image))))


def in_sequence(last: layers.Dense) -> keras.Model:
    return keras.Sequential([keras.Input(SHAPE), *rows(last)])
