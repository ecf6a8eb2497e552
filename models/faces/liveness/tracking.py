"""One face through a clip: plain numbers frame by frame, which is all that a judgement needs.

So every judgement is a function of a `Track`, and a track can be written down by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from contracts.queue.messages import Vector
from models.faces.liveness.facial_metrics import Signals

STILL = 0.02
"""Grey levels that two frames differ by, on the mean, if they are one and the same; see `motion`.

What a codec makes of a repeated picture stays far under it, and the noise of a camera far above."""


@dataclass(frozen=True, slots=True)
class TrackFrame:
    """What was seen in one frame.

    Attributes:
        at: Seconds from the clip's first frame.
        signals: What the face does; None where there is none.
        motion: Mean difference to the frame before in grey levels, where the face is.
        look: The perceptual hash of the whole frame, see `models.faces.liveness.perceptual_hash`.
        faces: How many faces are about as large as this one; looked for now and then.
        acceptable: Whether the face is fit to be recognised.
    """

    at: float
    signals: Signals | None
    motion: float
    look: bytes = b""
    faces: int = 1
    acceptable: bool = True


@dataclass(frozen=True, slots=True)
class Track:
    """One face through a clip.

    Attributes:
        frames: In the order of time.
        embeddings: By the index of the frame; of some frames, each float32 (128,), of length 1.
    """

    frames: tuple[TrackFrame, ...]
    embeddings: Mapping[int, Vector] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return self.frames[-1].at - self.frames[0].at if self.frames else 0.0

    @property
    def fps(self) -> float:
        """Frames a second that differ from the one before."""
        different = sum(frame.motion >= STILL for frame in self.frames[1:])
        return different / self.seconds if self.seconds > 0 else 0.0

    def longest_standstill(self) -> float:
        """Seconds of the longest time through which the face did not change at all."""
        longest, since = 0.0, self.frames[0].at if self.frames else 0.0
        for frame in self.frames[1:]:
            if frame.motion >= STILL:
                since = frame.at
            longest = max(longest, frame.at - since)
        return longest

    def likeness(self, one: int, other: Vector) -> float:
        """The cosine of the embedding of a frame and another one."""
        return float(np.dot(self.embeddings[one], other))
