"""3x3 convolutions that continue an image past its edges.

With zeros there, as networks are trained, features near an edge are those of a dark frame, and an
image that is optimized gets a frame of false colors to make up for it.
"""

from typing import Any

import keras
import tensorflow as tf

ONE_PIXEL = [[0, 0], [1, 1], [1, 1], [0, 0]]


class EdgeConv2D(keras.layers.Conv2D):  # type: ignore[misc]
    """Repeats the outermost pixels; otherwise the convolution that it is made from."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """As the base class, which would add zeros."""
        padded = tf.pad(inputs, ONE_PIXEL, "SYMMETRIC")
        return keras.ops.conv(padded, kernel, padding="valid")


def is_padded(layer: keras.Layer) -> bool:
    """Whether it is a plain 3x3 convolution that keeps the size of its images."""
    return (
        type(layer) in {keras.layers.Conv2D, EdgeConv2D}
        and layer.kernel_size == (3, 3)
        and (layer.strides, layer.dilation_rate, layer.groups) == ((1, 1), (1, 1), 1)
        and layer.padding == "same"
    )
