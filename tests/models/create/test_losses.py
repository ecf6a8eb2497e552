"""Every loss and its gradient against NumPy, which computes both from the papers' sums."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from contracts.create.requests import Normalization
from models.create.style.losses import (
    content_loss,
    gram_matrix,
    style_loss,
    total_variation,
)

Array = np.ndarray
RANDOM = np.random.default_rng(0)
HEIGHT, WIDTH, CHANNELS = 6, 5, 4
POSITIONS = HEIGHT * WIDTH
FEATURES = RANDOM.normal(size=(1, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
OTHERS = RANDOM.normal(size=(1, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)


def computed(loss: Callable[[tf.Tensor], tf.Tensor], at: Array) -> tuple[float, Array]:
    x = tf.constant(at)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x)
    return float(value), tape.gradient(value, x).numpy()


def test_content_loss() -> None:
    loss, gradient = computed(lambda x: content_loss(x, OTHERS), FEATURES)
    count = HEIGHT * WIDTH * CHANNELS
    expected = sum((a - b) ** 2 for a, b in zip(FEATURES.flat, OTHERS.flat, strict=True))
    assert loss == pytest.approx(expected / (2 * count), rel=1e-4)
    np.testing.assert_allclose(gradient, (FEATURES - OTHERS) / count, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("normalization", "factor"), [("paper", 1.0), ("tutorial", 4.0)])
def test_style_loss(normalization: Normalization, factor: float) -> None:
    """Equation 6 of the paper gives the gradient: 1/(N² M²) F'(G - A)."""
    target = gram_matrix(OTHERS)
    loss, gradient = computed(lambda x: style_loss(gram_matrix(x), target, normalization), FEATURES)
    ours, theirs = FEATURES.reshape(POSITIONS, -1), OTHERS.reshape(POSITIONS, -1)
    gram, wanted = np.zeros((2, CHANNELS, CHANNELS))
    for i in range(CHANNELS):
        for j in range(CHANNELS):
            gram[i, j] = sum(ours[k, i] * ours[k, j] for k in range(POSITIONS))
            wanted[i, j] = sum(theirs[k, i] * theirs[k, j] for k in range(POSITIONS))
    scale = CHANNELS**2 * POSITIONS**2
    assert loss == pytest.approx(factor * np.sum((gram - wanted) ** 2) / (4 * scale), rel=1e-4)
    expected = factor * (ours @ (gram - wanted)) / scale
    np.testing.assert_allclose(
        gradient.reshape(POSITIONS, -1), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


def test_tutorial_divides_gram_matrices_by_height_width_and_channels() -> None:
    ours, theirs = (x.reshape(POSITIONS, -1) for x in (FEATURES, OTHERS))
    scale = HEIGHT * WIDTH * CHANNELS
    expected = np.sum((ours.T @ ours / scale - theirs.T @ theirs / scale) ** 2)
    loss = style_loss(gram_matrix(FEATURES), gram_matrix(OTHERS), "tutorial")
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_total_variation() -> None:
    image = RANDOM.uniform(0, 255, (1, HEIGHT, WIDTH, 3)).astype(np.float32)
    loss, gradient = computed(total_variation, image)
    down, across = (HEIGHT - 1) * WIDTH * 3, HEIGHT * (WIDTH - 1) * 3
    expected, slope = 0.0, np.zeros(image.shape)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for dy, dx, count in ((1, 0, down), (0, 1, across)):
                if y + dy < HEIGHT and x + dx < WIDTH:
                    difference = image[0, y + dy, x + dx].astype(float) - image[0, y, x]
                    expected += float(np.sum(difference**2)) / count
                    slope[0, y + dy, x + dx] += 2 * difference / count
                    slope[0, y, x] -= 2 * difference / count
    assert loss == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-4 * np.abs(slope).max())
