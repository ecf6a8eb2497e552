"""Fits a similarity transform between two point sets (Umeyama, 1991, IEEE PAMI 13(4))."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Similarity:
    """Maps a point p to scale * rotation @ p + translation.

    Attributes:
        rotation: (d, d), without reflection.
        scale: Above 0.
        translation: (d,).
        error: Root mean square distance that remains, in the target's units.
    """

    rotation: Matrix
    scale: float
    translation: Matrix
    error: float


def fit(source: npt.ArrayLike, target: npt.ArrayLike) -> Similarity:
    """The least-squares similarity transform from `source` to `target`.

    Args:
        source: (n, d), n at least d, not all the same point.
        target: (n, d).
    """
    first, second = np.asarray(source, np.float64), np.asarray(target, np.float64)
    first_mean, second_mean = first.mean(axis=0), second.mean(axis=0)
    first_centered, second_centered = first - first_mean, second - second_mean
    u, singular, vt = np.linalg.svd(second_centered.T @ first_centered / len(first))
    signs = np.ones(len(singular))
    signs[-1] = np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0
    rotation = u * signs @ vt
    variance = (first_centered**2).sum() / len(first)
    scale = float((singular * signs).sum() / max(variance, 1e-12))
    residuals = second_centered - scale * first_centered @ rotation.T
    error = float(np.sqrt((residuals**2).sum(axis=1).mean()))
    return Similarity(rotation, scale, second_mean - scale * rotation @ first_mean, error)
