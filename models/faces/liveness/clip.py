"""A clip looked through by the analyser: frames in, a `Track` out, with the faces that were found.

Frames are let go of one by one; of each face its cut-out stays, to be embedded when all were seen.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from contracts.queue.messages import Pixels, Vector
from models.faces.detection.detection import FoundFace
from models.faces.liveness.actions import State
from models.faces.liveness.facial_metrics import signals_of
from models.faces.liveness.perceptual_hash import look_of
from models.faces.liveness.tracking import Track, TrackFrame
from models.faces.liveness.video import Frame

# How often a second face is looked for, and how large it must be to matter.
_COUNT_SECONDS, _COUNT_PART = 0.5, 0.6
_BATCH = 4
_CELLS = 24  # to a side; each a mean of many pixels, so that a codec's rounding vanishes


class Analyser(Protocol):
    """What of `models.faces.analyser.FaceAnalyser` is needed here."""

    def find(self, picture: Pixels, most: int = 32) -> list[FoundFace]: ...

    def track(self, picture: Pixels, previous: FoundFace | None) -> FoundFace | None: ...

    def embed(self, chips: Pixels) -> Vector: ...


@dataclass(frozen=True, slots=True)
class Watched:
    """A clip that was looked through.

    Attributes:
        track: What the face does; without embeddings.
        found: The face of each frame; None where there is none.
    """

    track: Track
    found: tuple[FoundFace | None, ...]

    def embedded(self, analyser: Analyser, between: Callable[[], None]) -> Track:
        """The track with the embedding of every face in it.

        Args:
            analyser: Embeds.
            between: Called before every few.
        """
        chips = [(at, one.chip) for at, one in enumerate(self.found) if one is not None]
        embeddings: dict[int, Vector] = {}
        for start in range(0, len(chips), _BATCH):
            between()
            part = chips[start : start + _BATCH]
            vectors = analyser.embed(np.stack([chip for _, chip in part]))
            embeddings |= {at: vector for (at, _), vector in zip(part, vectors, strict=True)}
        return Track(self.track.frames, embeddings)


def watch(frames: Iterable[Frame], analyser: Analyser, between: Callable[[float], None]) -> Watched:
    """Look through a clip.

    Args:
        frames: Upright, all of one size.
        analyser: Finds the face.
        between: Called before each frame with its time; it may let others go first, or raise.
    """
    told: list[TrackFrame] = []
    found: list[FoundFace | None] = []
    face: FoundFace | None = None
    before: Pixels | None = None
    count_at = 0.0
    for frame in frames:
        between(frame.at)
        previous, face = face, analyser.track(frame.pixels, face)
        faces = 1
        if frame.at >= count_at:
            count_at = frame.at + _COUNT_SECONDS
            faces = _large_faces(analyser.find(frame.pixels, 2), face)
        told.append(
            TrackFrame(
                frame.at,
                None if face is None else signals_of(face),
                _motion(before, frame.pixels, previous or face),
                look_of(frame.pixels),
                faces,
                face is not None and face.face.quality.acceptable,
            )
        )
        found.append(face)
        before = frame.pixels
    return Watched(Track(tuple(told)), tuple(found))


def _large_faces(found: Sequence[FoundFace], face: FoundFace | None) -> int:
    """How many are as large as the one, about."""
    if face is None:
        return len(found)
    least = _COUNT_PART * face.face.quality.size
    return max(1, sum(one.face.quality.size >= least for one in found))


def _motion(before: Pixels | None, now: Pixels, face: FoundFace | None) -> float:
    """Mean difference in grey levels where the face is; of the whole frame without one."""
    if before is None or before.shape != now.shape:
        return 255.0
    return float(np.abs(_cells(now, face) - _cells(before, face)).mean())


def _cells(picture: Pixels, face: FoundFace | None) -> npt.NDArray[np.float32]:
    if face is not None:
        box = face.face.box
        height, width = picture.shape[:2]
        left, top = int(max(0, box.x)), int(max(0, box.y))
        right, bottom = int(min(width, box.x + box.width)), int(min(height, box.y + box.height))
        if right - left > 1 and bottom - top > 1:
            picture = picture[top:bottom, left:right]
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    cells: npt.NDArray[np.float32] = cv2.resize(
        grey, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA
    )
    return cells


def neutral_frames(track: Track, states: Sequence[State]) -> list[int]:
    """Frames that may be compared with others' pictures: neutral, and fit to be recognised."""
    return [
        at for at, frame in enumerate(track.frames) if states[at] == "neutral" and frame.acceptable
    ]
