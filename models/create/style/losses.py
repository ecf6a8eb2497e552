"""The losses of style transfer (Gatys, Ecker and Bethge, 2015, arXiv:1508.06576; 2016, CVPR).

Every loss is a mean over positions and not the paper's sum, so that one set of weights serves all
sizes of an image, and so do Gram matrices of a style and of a result of different sizes. At equal
sizes, `style_loss` is the paper's equation 4.
"""

from typing import Any

import tensorflow as tf

from contracts.create.requests import Normalization

Tensor = Any


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared difference: the paper's equation 1 over the number of values.

    Args:
        features: float32 (1, height, width, channels), of the image.
        target: Likewise, of the content.
    """
    return tf.reduce_mean(tf.square(features - target)) / 2


def gram_matrix(features: Tensor) -> Tensor:
    """The correlations of channels: the paper's equation 3 over the number of positions.

    Args:
        features: float32 (1, height, width, channels).

    Returns:
        float32 (channels, channels), F'F / (height * width).
    """
    shape = tf.shape(features)
    positions = shape[1] * shape[2]
    flat = tf.reshape(features, (positions, features.shape[-1]))
    return tf.matmul(flat, flat, transpose_a=True) / tf.cast(positions, tf.float32)


def style_loss(gram: Tensor, target: Tensor, normalization: Normalization) -> Tensor:
    """The squared differences of two Gram matrices from `gram_matrix`.

    ``paper``: over 4 N², for N channels. ``tutorial``: of matrices that are divided by N as well,
    without another factor, which is four times the same.
    """
    channels = float(gram.shape[-1])
    squares = tf.reduce_sum(tf.square(gram - target))
    return squares / (4 * channels**2 if normalization == "paper" else channels**2)


def total_variation(image: Tensor) -> Tensor:
    """The mean squared difference of neighbors, down plus across (Mahendran and Vedaldi, 2014).

    Args:
        image: float32 (1, height, width, 3).
    """
    down = image[:, 1:] - image[:, :-1]
    across = image[:, :, 1:] - image[:, :, :-1]
    return tf.reduce_mean(tf.square(down)) + tf.reduce_mean(tf.square(across))
