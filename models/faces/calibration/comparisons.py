"""All comparisons of labelled faces: who is alike though another, who is unlike though the same.

A pair of two faces of one person is *genuine*, of two people an *impostor* pair. A pair matches if
its similarity reaches the threshold, so a genuine pair below it is a false non-match (FNMR) and an
impostor pair at or above it a false match (FMR); the terms are those of ISO/IEC 19795-1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from contracts.queue.messages import Vector

Numbers = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float64]

_ROWS = 256  # of the matrix of similarities that are computed at once


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The similarities of all pairs, sorted, and whose they are.

    Attributes:
        people: Names.
        faces: int32 (people,): how many faces each has.
        genuine: float32 (g,), rising.
        genuine_of: int32 (g,), the person of each.
        impostor: float32 (m,), falling.
        impostor_of: int32 (m, 2), the two people of each.
    """

    people: tuple[str, ...]
    faces: Numbers
    genuine: Vector
    genuine_of: Numbers
    impostor: Vector
    impostor_of: Numbers

    @classmethod
    def of(cls, embeddings: Vector, labels: Sequence[str]) -> Self:
        """Compare each face with each other one.

        Args:
            embeddings: float32 (n, d), of length 1 each.
            labels: (n,) whose each is.
        """
        people, found = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
        whose: Numbers = found.astype(np.int32)
        parts = [_against_later(embeddings, whose, at) for at in range(0, len(whose), _ROWS)]
        scores = np.concatenate([part[0] for part in parts] or [np.empty(0, np.float32)])
        pairs = np.concatenate([part[1] for part in parts] or [np.empty((0, 2), np.int32)])
        same = pairs[:, 0] == pairs[:, 1]
        genuine, impostor = scores[same], scores[~same]
        rising = np.argsort(genuine, kind="stable")
        falling = np.argsort(-impostor, kind="stable")
        return cls(
            people=tuple(str(name) for name in people),
            faces=np.bincount(whose, minlength=len(people)).astype(np.int32),
            genuine=genuine[rising],
            genuine_of=pairs[same, 0][rising],
            impostor=impostor[falling],
            impostor_of=pairs[~same][falling],
        )

    def missed(self, threshold: float) -> int:
        """How many genuine pairs do not match."""
        return int(np.searchsorted(self.genuine, np.float32(threshold), side="left"))

    def confused(self, threshold: float) -> int:
        """How many impostor pairs match."""
        return int(np.searchsorted(-self.impostor, -np.float32(threshold), side="right"))

    def fnmr(self, threshold: float) -> float:
        """The false non-match rate; NaN where nobody has two faces."""
        return self.missed(threshold) / len(self.genuine) if len(self.genuine) else float("nan")

    def fmr(self, threshold: float) -> float:
        """The false match rate; NaN where there is one person only."""
        return self.confused(threshold) / len(self.impostor) if len(self.impostor) else float("nan")

    def among(self, people: npt.NDArray[np.bool_]) -> Self:
        """Only the pairs both of whose faces belong to some of the people.

        Args:
            people: (people,) whether each is one of them.
        """
        genuine = people[self.genuine_of]
        impostor = people[self.impostor_of].all(axis=1)
        place = np.cumsum(people, dtype=np.int32) - 1
        return type(self)(
            people=tuple(name for name, one in zip(self.people, people, strict=True) if one),
            faces=self.faces[people],
            genuine=self.genuine[genuine],
            genuine_of=place[self.genuine_of[genuine]],
            impostor=self.impostor[impostor],
            impostor_of=place[self.impostor_of[impostor]],
        )


def _against_later(embeddings: Vector, whose: Numbers, at: int) -> tuple[Vector, Numbers]:
    """The similarities of some faces to all that come after each, and whose pairs they are."""
    rows, rest = embeddings[at : at + _ROWS], embeddings[at:]
    left, right = np.nonzero(np.arange(len(rest))[None, :] > np.arange(len(rows))[:, None])
    scores = (rows @ rest.T)[left, right].astype(np.float32)
    return scores, np.stack([whose[left + at], whose[right + at]], axis=1)
