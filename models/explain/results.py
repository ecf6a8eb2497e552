"""Explanations as clients read them: numbers with names, or a layer of a picture.

What explaining a batch of pictures comes to, and how it travels. Knows no TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InternalError
from contracts.inference.heatmap import Channel, Grid, Heatmap, Region, Target
from contracts.queue.explain_messages import ActivationsNote, MapNote
from contracts.queue.messages import Vector
from models.images.resize import Box
from models.rendering.heatmap import Layer
from models.store.labels import Label

# Finer than any color or rank can tell.
_DECIMALS = 6


def heatmap_of(vector: Vector, note: MapNote, labels: Sequence[Label], *, cached: bool) -> Heatmap:
    """One map in numbers.

    Args:
        vector: The grid, row by row.
        note: What it means.
        labels: The name of each class, in the network's order.
        cached: Whether it was made before.

    Raises:
        InternalError: There is no name for the class.
    """
    grid = vector.reshape(note.shape).astype(float).round(_DECIMALS)
    return Heatmap(
        target=_target(note, labels),
        grid=Grid(shape=list(note.shape), values=grid.tolist()),
        empty=not vector.any(),
        metrics=note.metrics,
        cached=cached,
    )


def layer_of(vector: Vector, note: MapNote, labels: Sequence[Label], method: str) -> Layer:
    """One map to be drawn, with a title that says what it is."""
    target = _target(note, labels)
    parts = [f"{target.label} {target.probability:.1%}", method]
    if not vector.any():
        parts.insert(0, "no evidence")
    if note.metrics is not None:
        parts.append(f"deletion {note.metrics.deletion_auc:.2f}")
        parts.append(f"insertion {note.metrics.insertion_auc:.2f}")
    return Layer(vector.reshape(note.shape), ", ".join(parts))


def region_of(box: Box) -> Region:
    """A box as clients read it."""
    left, top, right, bottom = box
    return Region(x=left, y=top, width=right - left, height=bottom - top)


def channels_of(vector: Vector, note: ActivationsNote) -> list[Channel]:
    """A layer's maps in numbers."""
    maps = vector.reshape(len(note.channels), *note.shape)
    return [
        Channel(
            index=channel.index,
            blank=channel.smallest == channel.largest,
            smallest=channel.smallest,
            largest=channel.largest,
            mean=channel.mean,
            values=one.astype(float).round(_DECIMALS).tolist(),
        )
        for one, channel in zip(maps, note.channels, strict=True)
    ]


def _target(note: MapNote, labels: Sequence[Label]) -> Target:
    if note.target >= len(labels):
        raise InternalError("The network and its labels do not belong together.")
    label = labels[note.target]
    probability = min(1.0, max(0.0, note.probability))
    return Target(index=note.target, id=label.id, label=label.text, probability=probability)


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
