"""VGG16 and VGG19: stacks of 3x3 convolutions (Simonyan and Zisserman, 2014, arXiv:1409.1556)."""

import keras
from keras import layers

# Convolutions in each of the five blocks: columns D and E of the paper's table 1.
_DEPTHS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


def vgg(
    name: str,
    *,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    classes: int = 1000,
    include_top: bool = True,
    batch_norm: bool = False,
) -> keras.Model:
    """A VGG with random weights.

    Args:
        name: ``vgg16`` or ``vgg19``.
        input_shape: (height, width, 3) of the preprocessed input; must be known for the top.
        classes: Size of the softmax.
        include_top: Whether ``fc1``, ``fc2`` and ``predictions`` follow ``block5_pool``.
        batch_norm: Whether each convolution is normalised before its ReLU, as later authors do.

    Returns:
        float32 (n, height, width, 3) to probabilities (n, classes), or to the last feature maps.
    """
    image = x = keras.Input(input_shape, name="image")
    for block, (depth, channels) in enumerate(zip(_DEPTHS[name], _CHANNELS, strict=True), start=1):
        for number in range(1, depth + 1):
            x = _convolution(x, channels, f"block{block}_conv{number}", batch_norm=batch_norm)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(4096, activation="relu", name="fc1")(x)
        x = layers.Dense(4096, activation="relu", name="fc2")(x)
        x = layers.Dense(classes, activation="softmax", name="predictions")(x)
    return keras.Model(image, x, name=name)


def _convolution(
    x: keras.KerasTensor, channels: int, name: str, *, batch_norm: bool
) -> keras.KerasTensor:
    if not batch_norm:
        return layers.Conv2D(channels, 3, padding="same", activation="relu", name=name)(x)
    x = layers.Conv2D(channels, 3, padding="same", name=name)(x)
    x = layers.BatchNormalization(name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
