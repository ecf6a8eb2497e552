"""Explanations as clients read them: numbers with names, or a layer of a picture."""

from collections.abc import Sequence

from contracts.errors import InternalError
from contracts.heatmap import Channel, Grid, Heatmap, Region, Target
from contracts.messages import Vector
from contracts.notes import ActivationsNote, MapNote
from models.labels import Label
from models.rendering.heatmap import Layer
from models.resizing import Box

# Finer than any colour or rank can tell.
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
