"""SqueezeNet 1.1: fire modules instead of wide convolutions (Iandola et al., 2016).

arXiv:1602.07360, in the version of the authors' second release. Pooling rounds down (Keras's
``valid``), as in the Keras port; Caffe and torch round up. The accuracy is the same.
"""

import keras
from keras import layers

# (squeeze, expand) channels of the fire modules in each stage between two poolings.
_STAGES = (
    ((16, 64), (16, 64)),
    ((32, 128), (32, 128)),
    ((48, 192), (48, 192), (64, 256), (64, 256)),
)


def squeezenet(
    *,
    input_shape: tuple[int | None, int | None, int] = (227, 227, 3),
    classes: int = 1000,
    include_top: bool = True,
) -> keras.Model:
    """SqueezeNet 1.1 with random weights.

    Args:
        input_shape: (height, width, 3) of the preprocessed input; None for any.
        classes: Size of the softmax.
        include_top: Whether the classifier follows ``fire9_concat``.

    Returns:
        float32 (n, height, width, 3) to probabilities (n, classes), or to the last feature maps.
    """
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(64, 3, strides=2, name="conv1")(image)
    x = layers.ReLU(name="relu_conv1")(x)
    number = 1  # the paper numbers layers; a pooling has the number of the layer before it
    for stage in _STAGES:
        x = layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(x)
        for squeeze, expand in stage:
            number += 1
            x = _fire(x, squeeze, expand, f"fire{number}")
    if include_top:
        x = layers.Dropout(0.5, name="drop9")(x)
        x = layers.Conv2D(classes, 1, name="conv10")(x)
        x = layers.ReLU(name="relu_conv10")(x)
        x = layers.GlobalAveragePooling2D(name="pool10")(x)
        x = layers.Softmax(name="predictions")(x)
    return keras.Model(image, x, name="squeezenet")


def _fire(x: keras.KerasTensor, squeeze: int, expand: int, name: str) -> keras.KerasTensor:
    """Squeeze to few channels, then expand by 1x1 and 3x3 side by side (the paper's figure 1)."""
    x = layers.Conv2D(squeeze, 1, name=f"{name}_squeeze1x1")(x)
    x = layers.ReLU(name=f"{name}_relu_squeeze1x1")(x)
    left = layers.Conv2D(expand, 1, name=f"{name}_expand1x1")(x)
    left = layers.ReLU(name=f"{name}_relu_expand1x1")(left)
    right = layers.Conv2D(expand, 3, padding="same", name=f"{name}_expand3x3")(x)
    right = layers.ReLU(name=f"{name}_relu_expand3x3")(right)
    return layers.Concatenate(name=f"{name}_concat")([left, right])
