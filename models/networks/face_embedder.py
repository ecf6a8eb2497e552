"""The ResNet that turns a face into 128 numbers (King, 2017: dlib's face recognition model).

ResNet-34 (He et al., 2015, arXiv:1512.03385) with fewer layers and half the filters, no padding in
downsampling blocks, and shortcuts that average and then append zero channels. dlib's scale after
each convolution is folded into the convolution, so that the graph contains only plain layers.
"""

import keras
from keras import layers

# (name, filters, whether it halves the maps), in the order of the network.
BLOCKS = (
    *((f"conv32_{number}", 32, False) for number in (1, 2, 3)),
    ("conv64_down", 64, True),
    *((f"conv64_{number}", 64, False) for number in (1, 2, 3)),
    ("conv128_down", 128, True),
    *((f"conv128_{number}", 128, False) for number in (1, 2)),
    ("conv256_down", 256, True),
    *((f"conv256_{number}", 256, False) for number in (1, 2)),
    ("conv256_down_out", 256, True),
)
STEM = "conv32_down"
EMBEDDING = "embedding"
FEATURES = 128


def face_embedder(
    *,
    input_shape: tuple[int, int, int] = (150, 150, 3),
    classes: int | None = None,  # noqa: ARG001  all builders have the same signature
    include_top: bool = True,
) -> keras.Model:
    """The embedder with random weights.

    Args:
        input_shape: (height, width, 3) of the preprocessed input, at least 127 pixels a side.
        classes: Ignored, because the network has no classes.
        include_top: Whether pooling, ``fc`` and the normalization to unit length follow the maps.

    Returns:
        float32 (n, height, width, 3) to embeddings (n, 128) of length 1, or to the last maps.
    """
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(32, 7, strides=2, activation="relu", name=STEM)(image)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for name, filters, shrinks in BLOCKS:
        x = _block(x, name=name, filters=filters, shrinks=shrinks)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(FEATURES, use_bias=False, name="fc")(x)
        x = layers.UnitNormalization(name=EMBEDDING)(x)
    return keras.Model(image, x, name="face_embedder")


def _block(x: keras.KerasTensor, *, name: str, filters: int, shrinks: bool) -> keras.KerasTensor:
    """Two convolutions, with the input added."""
    shortcut = x
    x = layers.Conv2D(
        filters, 3, strides=2 if shrinks else 1, padding="valid" if shrinks else "same",
        activation="relu", name=f"{name}_conv1",
    )(x)  # fmt: skip
    x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_conv2")(x)
    if shrinks:
        shortcut = layers.AveragePooling2D(2, name=f"{name}_pool")(shortcut)
        x, shortcut = _match_shapes(x, shortcut, name)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=name)(x)


def _match_shapes(
    x: keras.KerasTensor, shortcut: keras.KerasTensor, name: str
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Pad with zeros (rows, columns and channels) until the two can be added.

    If the number of rows is even, an unpadded convolution gives one row less than the pooling.
    """
    rows, columns = (
        pooled - convolved
        for convolved, pooled in zip(x.shape[1:3], shortcut.shape[1:3], strict=True)
    )
    if rows or columns:
        x = layers.ZeroPadding2D(((0, rows), (0, columns)), name=f"{name}_border")(x)
    if (more := x.shape[-1] - shortcut.shape[-1]) > 0:
        # The number of filters doubles, so the shortcut minus itself has the missing channels.
        if more != shortcut.shape[-1]:
            raise ValueError(f"{name} has {x.shape[-1]} filters, not twice as many as before")
        empty = layers.Subtract(name=f"{name}_empty")([shortcut, shortcut])
        shortcut = layers.Concatenate(name=f"{name}_widened")([shortcut, empty])
    return x, shortcut
