"""One face through a clip as plain numbers per frame, which is all that a judgment needs.

Every judgment is therefore a function of a `Track`, which tests can write by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from contracts.queue.messages import Vector
from models.faces.liveness.facial_metrics import FacialMetrics

MIN_MOTION = 0.02
"""Mean difference in gray levels below which two frames are the same, see `TrackFrame.motion`.

What a codec makes of a repeated image stays far below it, and camera noise is far above."""


@dataclass(frozen=True, slots=True)
class TrackFrame:
    """What was seen in one frame.

    Attributes:
        time: Seconds since the first frame of the clip.
        metrics: Of the face; None if there is none.
        motion: Mean difference in gray levels from the previous frame, in the area of the face.
        image_hash: Of the whole frame, see `models.faces.liveness.perceptual_hash`.
        faces: Number of faces of about the same size; counted only in some frames.
        acceptable: Whether the face is good enough to be recognized.
    """

    time: float
    metrics: FacialMetrics | None
    motion: float
    image_hash: bytes = b""
    faces: int = 1
    acceptable: bool = True


@dataclass(frozen=True, slots=True)
class Track:
    """One face through a clip.

    Attributes:
        frames: In order of time.
        embeddings: By index of the frame, each float32 (128,) of unit length; of some frames.
    """

    frames: tuple[TrackFrame, ...]
    embeddings: Mapping[int, Vector] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return self.frames[-1].time - self.frames[0].time if self.frames else 0.0

    @property
    def fps(self) -> float:
        """Frames per second that differ from the previous one."""
        different = sum(frame.motion >= MIN_MOTION for frame in self.frames[1:])
        return different / self.seconds if self.seconds > 0 else 0.0

    def longest_standstill(self) -> float:
        """Longest time in seconds during which the face did not change at all."""
        longest, since = 0.0, self.frames[0].time if self.frames else 0.0
        for frame in self.frames[1:]:
            if frame.motion >= MIN_MOTION:
                since = frame.time
            longest = max(longest, frame.time - since)
        return longest

    def similarity(self, index: int, embedding: Vector) -> float:
        """Cosine similarity of a frame's embedding and another embedding."""
        return float(np.dot(self.embeddings[index], embedding))
