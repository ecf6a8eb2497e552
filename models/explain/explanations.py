"""What explaining a batch of pictures comes to, and how it travels. Knows no TensorFlow."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.messages import Vector
from contracts.notes import MapNote

Indices = npt.NDArray[np.int32]

Told = tuple[Vector, bytes]
"""Numbers in one row, and the note that says what they mean."""


@dataclass(frozen=True, slots=True)
class Explanations:
    """Why each picture of a batch would be of its class.

    Attributes:
        grids: float32 (n, gh, gw) in 0..1; zeros where nothing speaks for the class.
        targets: The class that each explains, int32 (n,).
        probabilities: How probable the network holds it, float32 (n,).
    """

    grids: npt.NDArray[np.float32]
    targets: Indices
    probabilities: npt.NDArray[np.float32]

    def told(self, layer: str | None) -> list[Told]:
        """As it travels, picture by picture.

        Args:
            layer: Whose maps were weighed; None for a method that looks at the pixels.
        """
        rows, columns = self.grids.shape[1:]
        told = []
        for grid, target, probability in zip(
            self.grids, self.targets, self.probabilities, strict=True
        ):
            note = MapNote(
                shape=(rows, columns),
                layer=layer,
                target=int(target),
                probability=float(probability),
            )
            told.append((grid.ravel(), note.pack()))
        return told
