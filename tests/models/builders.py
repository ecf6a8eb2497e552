"""One small network, built in the three ways that Keras offers."""

import keras
from keras import layers

SHAPE = (16, 16, 3)


def layers_of(last: layers.Dense) -> list[keras.Layer]:
    return [
        layers.Conv2D(4, 3, activation="relu", name="conv2"),
        layers.MaxPooling2D(name="pool2"),
        layers.Flatten(name="flatten"),
        last,
    ]


def as_functional(last: layers.Dense) -> keras.Model:
    x = image = keras.Input(SHAPE)
    for layer in layers_of(last):
        x = layer(x)
    return keras.Model(image, x)


def as_nested(last: layers.Dense) -> keras.Model:
    """Its first layers are nested in another model, as in an imported base."""
    conv, pool, flatten, last = layers_of(last)
    image, inner = keras.Input(SHAPE), keras.Input(SHAPE)
    base = keras.Model(inner, pool(conv(inner)), name="base")
    return keras.Model(image, last(flatten(base(image))))


def as_sequential(last: layers.Dense) -> keras.Model:
    return keras.Sequential([keras.Input(SHAPE), *layers_of(last)])
