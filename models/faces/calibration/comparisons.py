"""Compares all pairs of labeled faces.

A pair of two faces of one person is *genuine*, one of two people an *impostor* pair. A pair matches
if its similarity reaches the threshold, so a genuine pair below it is a false non-match (FNMR) and
an impostor pair at or above it a false match (FMR); the terms are those of ISO/IEC 19795-1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from contracts.queue.messages import Vector

Int32Array = npt.NDArray[np.int32]
Float64Array = npt.NDArray[np.float64]

_ROWS = 256  # of the similarity matrix that are computed at once


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The sorted similarities of all pairs, and whose faces they are.

    Attributes:
        people: Names.
        faces: int32 (people,): number of faces per person.
        genuine: float32 (g,), ascending.
        genuine_of: int32 (g,), index of the person of each pair.
        impostor: float32 (m,), descending.
        impostor_of: int32 (m, 2), indices of the two people of each pair.
    """

    people: tuple[str, ...]
    faces: Int32Array
    genuine: Vector
    genuine_of: Int32Array
    impostor: Vector
    impostor_of: Int32Array

    @classmethod
    def of(cls, embeddings: Vector, labels: Sequence[str]) -> Self:
        """Compare each face with every other one.

        Args:
            embeddings: float32 (n, d), each of unit length.
            labels: The person of each embedding.
        """
        people, inverse = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
        person_of: Int32Array = inverse.astype(np.int32)
        blocks = [
            _compare_block(embeddings, person_of, start)
            for start in range(0, len(person_of), _ROWS)
        ]
        scores = np.concatenate([block[0] for block in blocks] or [np.empty(0, np.float32)])
        pairs = np.concatenate([block[1] for block in blocks] or [np.empty((0, 2), np.int32)])
        same = pairs[:, 0] == pairs[:, 1]
        genuine, impostor = scores[same], scores[~same]
        ascending = np.argsort(genuine, kind="stable")
        descending = np.argsort(-impostor, kind="stable")
        return cls(
            people=tuple(str(name) for name in people),
            faces=np.bincount(person_of, minlength=len(people)).astype(np.int32),
            genuine=genuine[ascending],
            genuine_of=pairs[same, 0][ascending],
            impostor=impostor[descending],
            impostor_of=pairs[~same][descending],
        )

    def false_non_matches(self, threshold: float) -> int:
        """Number of genuine pairs that do not match."""
        return int(np.searchsorted(self.genuine, np.float32(threshold), side="left"))

    def false_matches(self, threshold: float) -> int:
        """Number of impostor pairs that match."""
        return int(np.searchsorted(-self.impostor, -np.float32(threshold), side="right"))

    def fnmr(self, threshold: float) -> float:
        """The false non-match rate; NaN if no person has two faces."""
        pairs = len(self.genuine)
        return self.false_non_matches(threshold) / pairs if pairs else float("nan")

    def fmr(self, threshold: float) -> float:
        """The false match rate; NaN if there is only one person."""
        pairs = len(self.impostor)
        return self.false_matches(threshold) / pairs if pairs else float("nan")

    def among(self, selected: npt.NDArray[np.bool_]) -> Self:
        """Only the pairs of two faces of selected people.

        Args:
            selected: (people,).
        """
        genuine = selected[self.genuine_of]
        impostor = selected[self.impostor_of].all(axis=1)
        new_index = np.cumsum(selected, dtype=np.int32) - 1
        return type(self)(
            people=tuple(
                name for name, is_selected in zip(self.people, selected, strict=True) if is_selected
            ),
            faces=self.faces[selected],
            genuine=self.genuine[genuine],
            genuine_of=new_index[self.genuine_of[genuine]],
            impostor=self.impostor[impostor],
            impostor_of=new_index[self.impostor_of[impostor]],
        )


def _compare_block(
    embeddings: Vector, person_of: Int32Array, start: int
) -> tuple[Vector, Int32Array]:
    """Similarities of a block of faces to all later ones, and the people of each pair."""
    block, rest = embeddings[start : start + _ROWS], embeddings[start:]
    left, right = np.nonzero(np.arange(len(rest))[None, :] > np.arange(len(block))[:, None])
    # Rounding makes that of two equal faces greater than 1.
    scores = np.clip((block @ rest.T)[left, right].astype(np.float32), -1, 1)
    return scores, np.stack([person_of[left + start], person_of[right + start]], axis=1)
