"""Preprocessing: from uint8 RGB images to the float32 input that a network was trained on.

It uses only TensorFlow operations, so that it can be traced into the same graph as the network.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.catalog import Preprocessing

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow
BGR_MEANS = (103.939, 116.779, 123.68)  # of ImageNet, over 0..255, as in the first Caffe networks
FACE_MEANS = (122.782, 117.001, 104.298)  # red, green, blue over 0..255, as in dlib


def caffe(images: Any) -> Any:
    """BGR minus the means of ImageNet, not scaled."""
    return tf.reverse(tf.cast(images, tf.float32), axis=[-1]) - tf.constant(BGR_MEANS)


def lite(images: Any) -> Any:
    """RGB to about -1..1, in steps that a quantized network can represent."""
    return (tf.cast(images, tf.float32) - 127.0) / 128.0


def unit(images: Any) -> Any:
    """RGB to 0..1, as in tutorials that train from scratch."""
    return tf.cast(images, tf.float32) / 255.0


def face(images: Any) -> Any:
    """RGB minus the means of faces, divided by 255."""
    return (tf.cast(images, tf.float32) - tf.constant(FACE_MEANS)) / 255.0


_PREPROCESSING: dict[Preprocessing, Callable[[Any], Any]] = {
    "caffe": caffe,
    "face": face,
    "lite": lite,
    "unit": unit,
}


def preprocess(kind: Preprocessing, images: Any) -> Any:
    """Convert uint8 RGB of shape (n, height, width, 3) to float32 of the same shape."""
    return _PREPROCESSING[kind](images)


def prepare(kind: Preprocessing, images: Any, channels: int) -> Any:
    """Like `preprocess`, but converted to gray for a network with one input channel."""
    x = preprocess(kind, images)
    return x if channels == 3 else tf.reduce_sum(x * LUMA, axis=-1, keepdims=True)
