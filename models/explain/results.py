"""Explanations as numbers with names, as they travel from worker to API and from there to clients.

Does not import TensorFlow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InternalError
from contracts.inference.heatmap import Channel, Grid, Heatmap, Region, Target
from contracts.queue.explain_messages import ActivationsReply, ExplainReply
from contracts.queue.messages import Vector
from models.images.resize import Box
from models.rendering.heatmap import HeatmapLayer
from models.rendering.legend import percent
from models.store.labels import Label

Indices = npt.NDArray[np.int32]

EncodedReply = tuple[Vector, bytes]
"""The numbers in one row, and the note that says what they mean."""

_DECIMALS = 6  # finer than any color or rank can show


@dataclass(frozen=True, slots=True)
class Explanations:
    """Why each image of a batch would be of its class.

    Attributes:
        grids: float32 (n, gh, gw) in 0..1; zeros where nothing speaks for the class.
        targets: The explained class of each image, int32 (n,).
        probabilities: Predicted probability of that class, float32 (n,).
    """

    grids: npt.NDArray[np.float32]
    targets: Indices
    probabilities: npt.NDArray[np.float32]

    def encode(self, layer: str | None) -> list[EncodedReply]:
        """One reply for each image.

        Args:
            layer: The layer whose maps were weighed; None for a method that looks at the pixels.
        """
        rows, columns = self.grids.shape[1:]
        replies = []
        for grid, target, probability in zip(
            self.grids, self.targets, self.probabilities, strict=True
        ):
            reply = ExplainReply(
                shape=(rows, columns),
                layer=layer,
                target=int(target),
                probability=float(probability),
            )
            replies.append((grid.ravel(), reply.pack()))
        return replies


def heatmap_of(
    vector: Vector, reply: ExplainReply, labels: Sequence[Label], *, cached: bool
) -> Heatmap:
    """One heatmap as numbers.

    Args:
        vector: The grid, row by row.
        reply: Its shape and class.
        labels: The name of each class, in the network's order.
        cached: Whether it was computed for an earlier request.

    Raises:
        InternalError: There is no name for the class.
    """
    grid = vector.reshape(reply.shape).astype(float).round(_DECIMALS)
    return Heatmap(
        target=_target(reply, labels),
        grid=Grid(shape=list(reply.shape), values=grid.tolist()),
        empty=not vector.any(),
        metrics=reply.metrics,
        cached=cached,
    )


def heatmap_layer(
    vector: Vector, reply: ExplainReply, labels: Sequence[Label], method: str
) -> HeatmapLayer:
    """One heatmap to be drawn, with a title that says what it shows."""
    target = _target(reply, labels)
    parts = [f"{target.label} {percent(target.probability)}", method]
    if not vector.any():
        parts.insert(0, "no evidence")
    if reply.metrics is not None:
        parts.append(f"deletion {reply.metrics.deletion_auc:.2f}")
        parts.append(f"insertion {reply.metrics.insertion_auc:.2f}")
    return HeatmapLayer(vector.reshape(reply.shape), ", ".join(parts))


def region_of(box: Box) -> Region:
    """A box as clients read it."""
    left, top, right, bottom = box
    return Region(x=left, y=top, width=right - left, height=bottom - top)


def channels_of(vector: Vector, reply: ActivationsReply) -> list[Channel]:
    """A layer's maps as numbers."""
    maps = vector.reshape(len(reply.channels), *reply.shape)
    return [
        Channel(
            index=channel.index,
            blank=channel.smallest == channel.largest,
            smallest=channel.smallest,
            largest=channel.largest,
            mean=channel.mean,
            values=channel_map.astype(float).round(_DECIMALS).tolist(),
        )
        for channel_map, channel in zip(maps, reply.channels, strict=True)
    ]


def _target(reply: ExplainReply, labels: Sequence[Label]) -> Target:
    if reply.target >= len(labels):
        raise InternalError("The network and its labels do not belong together.")
    label = labels[reply.target]
    probability = min(1.0, max(0.0, reply.probability))
    return Target(index=reply.target, id=label.id, label=label.text, probability=probability)
