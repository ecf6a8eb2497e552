"""VGG16 and VGG19: stacks of 3x3 convolutions (Simonyan and Zisserman, 2014, arXiv:1409.1556)."""

from dataclasses import dataclass
from typing import Any

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
    weight_decay: float = 0.0,
) -> keras.Model:
    """A VGG with random weights.

    Args:
        name: ``vgg16`` or ``vgg19``.
        input_shape: (height, width, 3) of the preprocessed input; must be known for the top.
        classes: Size of the softmax.
        include_top: Whether ``fc1``, ``fc2`` and ``predictions`` follow.
        batch_norm: Whether each layer is normalized before its ReLU, as in later work; then
            kernels are initialized as by He et al., a dropout of 0.5 follows ``fc1`` and ``fc2``,
            and the top, which is normalized as well, follows the last convolution without a pool,
            for images as small as CIFAR-10's.
        weight_decay: Factor of the L2 penalty on every kernel.

    Returns:
        float32 (n, height, width, 3) to probabilities (n, classes), or to the last feature maps.
    """
    style = _Style(batch_norm, weight_decay)
    image = x = keras.Input(input_shape, name="image")
    for block, (depth, channels) in enumerate(zip(_DEPTHS[name], _CHANNELS, strict=True), start=1):
        for number in range(1, depth + 1):
            layer = f"block{block}_conv{number}"
            x = style.activated(layers.Conv2D, x, channels, layer, kernel_size=3, padding="same")
        if block < len(_CHANNELS) or not batch_norm:
            x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for layer in ("fc1", "fc2"):
            x = style.activated(layers.Dense, x, 4096, layer)
            if batch_norm:
                x = layers.Dropout(0.5, name=f"{layer}_dropout")(x)
        x = style.predictions(x, classes)
    return keras.Model(image, x, name=f"{name}_bn" if batch_norm else name)


@dataclass(frozen=True, slots=True)
class _Style:
    """The options that all layers of one VGG share."""

    batch_norm: bool
    weight_decay: float

    def activated(
        self, kind: type[keras.Layer], x: keras.KerasTensor, width: int, name: str, **options: Any
    ) -> keras.KerasTensor:
        """A convolution or dense layer with its ReLU, and batch normalization between them."""
        options |= self.kernels()
        if not self.batch_norm:
            return kind(width, activation="relu", name=name, **options)(x)
        x = kind(width, name=name, **options)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    def predictions(self, x: keras.KerasTensor, classes: int) -> keras.KerasTensor:
        """The output layer."""
        if not self.batch_norm:
            return layers.Dense(classes, "softmax", name="predictions", **self.kernels())(x)
        x = layers.Dense(classes, name="logits", **self.kernels())(x)
        x = layers.BatchNormalization(name="logits_bn")(x)
        return layers.Softmax(name="predictions")(x)

    def kernels(self) -> dict[str, Any]:
        start = "he_normal" if self.batch_norm else "glorot_uniform"
        decay = keras.regularizers.L2(self.weight_decay) if self.weight_decay else None
        return {"kernel_initializer": start, "kernel_regularizer": decay}
