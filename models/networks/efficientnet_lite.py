"""EfficientNet-Lite0: inverted bottlenecks without squeeze-and-excitation (Google, 2020).

EfficientNet-B0 (Tan and Le, 2019, arXiv:1905.11946, table 1) with ReLU6 for swish and no gates, so
that it is suitable for quantization; stem and head keep their width.
"""

import keras
from keras import layers

# (blocks, kernel, stride of the first, expansion, channels out)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_EPSILON = 1e-3


def efficientnet_lite0(
    *,
    input_shape: tuple[int | None, int | None, int] = (224, 224, 3),
    classes: int = 1000,
    include_top: bool = True,
) -> keras.Model:
    """EfficientNet-Lite0 with random weights.

    Args:
        input_shape: (height, width, 3) of the preprocessed input; None for any.
        classes: Size of the softmax.
        include_top: Whether pooling, dropout and ``predictions`` follow ``head_activation``.

    Returns:
        float32 (n, height, width, 3) to probabilities (n, classes), or to the last feature maps.
    """
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(image)
    x = _normalize(x, "stem")
    for number, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES, start=1):
        for block in range(blocks):
            x = _bottleneck(
                x,
                name=f"block{number}{'abcd'[block]}",
                kernel=kernel,
                stride=stride if block == 0 else 1,
                expansion=expansion,
                channels=channels,
            )
    x = layers.Conv2D(1280, 1, use_bias=False, name="head_conv")(x)
    x = _normalize(x, "head")
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dropout(0.2, name="top_dropout")(x)
        x = layers.Dense(classes, activation="softmax", name="predictions")(x)
    return keras.Model(image, x, name="efficientnet_lite0")


def _bottleneck(
    x: keras.KerasTensor, *, name: str, kernel: int, stride: int, expansion: int, channels: int
) -> keras.KerasTensor:
    """Expand, filter each channel, project; the input is added if the shapes allow it."""
    shortcut = x
    if expansion != 1:
        wide = expansion * x.shape[-1]
        x = layers.Conv2D(wide, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _normalize(x, f"{name}_expand")
    x = layers.DepthwiseConv2D(
        kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_dwconv"
    )(x)
    x = _normalize(x, f"{name}_dwconv")
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_project_bn")(x)
    if stride == 1 and shortcut.shape[-1] == channels:
        x = layers.Add(name=f"{name}_add")([x, shortcut])
    return x


def _normalize(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = layers.BatchNormalization(epsilon=_EPSILON, name=f"{name}_bn")(x)
    return layers.ReLU(max_value=6, name=f"{name}_activation")(x)
