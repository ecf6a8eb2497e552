"""Keeps the colors of the content (Gatys et al., 2016, arXiv:1606.05897)."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB (ITU-R BT.601)
_RIDGE = 1e-3  # squared levels: an image of one color has no covariance to invert


def gray(image: Array) -> Array:
    """The image's luminance in all three channels.

    Args:
        image: float32 (height, width, 3).
    """
    repeated: Array = np.repeat((image @ _LUMA)[..., np.newaxis], 3, axis=-1)
    return repeated


def match_luminance(style: Array, content: Array) -> Array:
    """The style in gray, with the mean and deviation of the content's luminance (section 5.2)."""
    ours, theirs = gray(style), content @ _LUMA
    deviation = max(float(ours.std()), 1e-6)
    matched = (ours - ours.mean()) * (float(theirs.std()) / deviation) + float(theirs.mean())
    clipped: Array = np.clip(matched, 0, 255).astype(np.float32)
    return clipped


def with_colors_of(image: Array, content: Array) -> Array:
    """The luminance of one image with the colors of another of the same size."""
    change = (image - content) @ _LUMA
    clipped: Array = np.clip(content + change[..., np.newaxis], 0, 255).astype(np.float32)
    return clipped


def match_colors(style: Array, content: Array) -> Array:
    """The style with the mean and covariance of the content's colors (section 4, equation 4).

    Args:
        style: float32 (height, width, 3), levels of 0 to 255.
        content: Likewise, of any size.
    """
    pixels, target = style.reshape(-1, 3).astype(np.float64), content.reshape(-1, 3)
    transform = _root(_covariance(target), 0.5) @ _root(_covariance(pixels), -0.5)
    matched = (pixels - pixels.mean(0)) @ transform.T + target.astype(np.float64).mean(0)
    clipped: Array = np.clip(matched, 0, 255).astype(np.float32)
    return clipped.reshape(style.shape)


def _covariance(pixels: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    centered = pixels.astype(np.float64) - pixels.mean(0, dtype=np.float64)
    covariance: npt.NDArray[np.float64] = centered.T @ centered / len(centered)
    return covariance + _RIDGE * np.eye(3)


def _root(matrix: npt.NDArray[np.float64], power: float) -> npt.NDArray[np.float64]:
    """A symmetric matrix to a power, by its eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    root: npt.NDArray[np.float64] = (vectors * np.maximum(values, _RIDGE) ** power) @ vectors.T
    return root
