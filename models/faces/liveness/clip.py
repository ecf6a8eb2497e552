"""Analyzes a clip frame by frame and returns a `Track` with the detected faces.

Frames are released one by one. Of each face only the crop is retained, to be embedded at the end.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from contracts.queue.messages import Pixels, Vector
from models.faces.detection.detection import DetectedFace
from models.faces.liveness.actions import State
from models.faces.liveness.facial_metrics import facial_metrics
from models.faces.liveness.perceptual_hash import hash_image
from models.faces.liveness.tracking import Track, TrackFrame
from models.faces.liveness.video import VideoFrame

# How often faces are counted, and the size relative to the tracked face from which they count.
_COUNT_SECONDS, _MIN_RELATIVE_SIZE = 0.5, 0.6
_BATCH = 4
_CELLS = 24  # per side; each is a mean of many pixels, which hides the rounding of a codec


class Analyzer(Protocol):
    """The methods of `models.faces.analyzer.FaceAnalyzer` that this package uses."""

    def find(self, image: Pixels, max_faces: int = 32) -> list[DetectedFace]: ...

    def track(self, image: Pixels, previous: DetectedFace | None) -> DetectedFace | None: ...

    def embed(self, crops: Pixels) -> Vector: ...


@dataclass(frozen=True, slots=True)
class TrackedClip:
    """A clip that was analyzed.

    Attributes:
        track: Without embeddings.
        faces: The face in each frame; None if there is none.
    """

    track: Track
    faces: tuple[DetectedFace | None, ...]

    def with_embeddings(self, analyzer: Analyzer, check: Callable[[], None]) -> Track:
        """The track with the embedding of every face.

        Args:
            check: Called before every batch; it may let other work run first, or raise.
        """
        crops = [(index, face.crop) for index, face in enumerate(self.faces) if face is not None]
        embeddings: dict[int, Vector] = {}
        for start in range(0, len(crops), _BATCH):
            check()
            batch = crops[start : start + _BATCH]
            vectors = analyzer.embed(np.stack([crop for _, crop in batch]))
            embeddings |= {index: vector for (index, _), vector in zip(batch, vectors, strict=True)}
        return Track(self.track.frames, embeddings)


def track_clip(
    frames: Iterable[VideoFrame], analyzer: Analyzer, check: Callable[[float], None]
) -> TrackedClip:
    """Follow the face through a clip.

    Args:
        frames: Upright. When their size changes, as a phone is turned, the face is searched again.
        check: Called with the time of each frame before it is analyzed; it may let other work run
            first, or raise.
    """
    track: list[TrackFrame] = []
    faces: list[DetectedFace | None] = []
    face: DetectedFace | None = None
    previous_pixels: Pixels | None = None
    next_count = 0.0
    for frame in frames:
        check(frame.time)
        if previous_pixels is not None and previous_pixels.shape != frame.pixels.shape:
            face = None
        previous, face = face, analyzer.track(frame.pixels, face)
        count = 1
        if frame.time >= next_count:
            next_count = frame.time + _COUNT_SECONDS
            count = _count_large_faces(analyzer.find(frame.pixels, 2), face)
        track.append(
            TrackFrame(
                time=frame.time,
                metrics=None if face is None else facial_metrics(face),
                motion=_motion(previous_pixels, frame.pixels, previous or face),
                image_hash=hash_image(frame.pixels),
                faces=count,
                acceptable=face is not None and face.face.quality.acceptable,
            )
        )
        faces.append(face)
        previous_pixels = frame.pixels
    return TrackedClip(Track(tuple(track)), tuple(faces))


def neutral_frames(track: Track, states: Sequence[State]) -> list[int]:
    """Indices of the frames for recognition: neutral, and with a face that is good enough."""
    return [
        index
        for index, frame in enumerate(track.frames)
        if states[index] == "neutral" and frame.acceptable
    ]


def _count_large_faces(found: Sequence[DetectedFace], face: DetectedFace | None) -> int:
    """Number of faces about as large as the tracked one."""
    if face is None:
        return len(found)
    min_size = _MIN_RELATIVE_SIZE * face.face.quality.size
    return max(1, sum(other.face.quality.size >= min_size for other in found))


def _motion(previous: Pixels | None, current: Pixels, face: DetectedFace | None) -> float:
    """Mean difference in gray levels in the area of the face; without one, of the whole frame."""
    if previous is None or previous.shape != current.shape:
        return 255.0
    return float(np.abs(_cells(current, face) - _cells(previous, face)).mean())


def _cells(image: Pixels, face: DetectedFace | None) -> npt.NDArray[np.float32]:
    if face is not None:
        box = face.face.box
        height, width = image.shape[:2]
        left, top = int(max(0, box.x)), int(max(0, box.y))
        right, bottom = int(min(width, box.x + box.width)), int(min(height, box.y + box.height))
        if right - left > 1 and bottom - top > 1:
            image = image[top:bottom, left:right]
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    cells: npt.NDArray[np.float32] = cv2.resize(
        gray, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA
    )
    return cells
