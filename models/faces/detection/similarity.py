"""The best turn, scale and shift between two sets of points (Umeyama, 1991, IEEE PAMI 13(4))."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Similarity:
    """Takes a point p to scale * turn @ p + shift.

    Attributes:
        turn: A rotation without mirroring, (d, d).
        scale: Above 0.
        shift: (d,).
        error: Root of the mean squared distance left, in the target's units.
    """

    turn: Matrix
    scale: float
    shift: Matrix
    error: float


def fit(source: npt.ArrayLike, target: npt.ArrayLike) -> Similarity:
    """The similarity that takes the source's points nearest to the target's, by least squares.

    Args:
        source: (n, d), n at least d, not all in one place.
        target: (n, d).
    """
    first, second = np.asarray(source, np.float64), np.asarray(target, np.float64)
    middle, goal = first.mean(axis=0), second.mean(axis=0)
    around, about = first - middle, second - goal
    u, singular, vt = np.linalg.svd(about.T @ around / len(first))
    signs = np.ones(len(singular))
    signs[-1] = np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0
    turn = u * signs @ vt
    spread = (around**2).sum() / len(first)
    scale = float((singular * signs).sum() / max(spread, 1e-12))
    left = about - scale * around @ turn.T
    error = float(np.sqrt((left**2).sum(axis=1).mean()))
    return Similarity(turn, scale, goal - scale * turn @ middle, error)
