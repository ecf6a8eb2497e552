"""From a picture to what a network was trained on: uint8 RGB in, float32 out.

TensorFlow operations only, so that it can be traced into the same graph as the network.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.catalog import Preprocessing

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow turns color to grey
BGR_MEANS = (103.939, 116.779, 123.68)  # ImageNet's, over 0..255, as the first Caffe networks had
FACE_MEANS = (122.782, 117.001, 104.298)  # red, green, blue over 0..255, as dlib trained


def caffe(images: Any) -> Any:
    """BGR minus the means of ImageNet, not scaled."""
    return tf.reverse(tf.cast(images, tf.float32), axis=[-1]) - tf.constant(BGR_MEANS)


def lite(images: Any) -> Any:
    """RGB to about -1..1, in steps that a quantised network can hold."""
    return (tf.cast(images, tf.float32) - 127.0) / 128.0


def unit(images: Any) -> Any:
    """RGB to 0..1, as the tutorials feed networks that start from nothing."""
    return tf.cast(images, tf.float32) / 255.0


def face(images: Any) -> Any:
    """RGB minus the means of faces, in parts of 255."""
    return (tf.cast(images, tf.float32) - tf.constant(FACE_MEANS)) / 255.0


_PREPROCESSING: dict[Preprocessing, Callable[[Any], Any]] = {
    "caffe": caffe,
    "face": face,
    "lite": lite,
    "unit": unit,
}


def preprocess(kind: Preprocessing, images: Any) -> Any:
    """Turn uint8 RGB of shape (n, height, width, 3) into float32 of that shape, as `kind` says."""
    return _PREPROCESSING[kind](images)


def prepare(kind: Preprocessing, images: Any, channels: int) -> Any:
    """As `preprocess`, made grey for a network that takes one channel."""
    x = preprocess(kind, images)
    return x if channels == 3 else tf.reduce_sum(x * _LUMA, axis=-1, keepdims=True)
