"""Faces in a picture of any size: detected, meshed, straightened and judged. No embeddings here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from contracts.faces.faces import LONGEST_SIDE, Box, Face, Point
from contracts.queue.messages import Pixels
from models.faces.detection import landmarks
from models.faces.detection.alignment import chip_of
from models.faces.detection.detection import (
    CHIP_SIDE,
    LEFT_EYE,
    RIGHT_EYE,
    Detections,
    FoundFace,
    Points,
)
from models.faces.detection.detector import FULL_RANGE, SHORT_RANGE, Detector
from models.faces.detection.mesh import FaceMesh, around_box, around_mesh
from models.faces.detection.pose import pose_of
from models.faces.detection.quality import Signs, outside_share, quality_of
from models.weights.catalog import Weights

WEIGHTS = "face_finder"
_SHORT_RANGE_FILE = "face_detection_short_range.tflite"
_MESH_FILE = "face_landmark.tflite"

# The mesh's own doubt, a logit: below this there is no face, whatever the detector says.
_LEAST_PRESENCE = 0.0
_OVERLAP = 0.3
# Faces smaller than about 8 pixels of the detector's 192 are not seen, so large pictures are
# looked at in parts as well.
_TILE = 640


@dataclass(frozen=True, slots=True)
class Seen:
    """What is in a picture.

    Attributes:
        faces: The largest first.
        total: How many there are, those that were left aside too.
    """

    faces: list[FoundFace]
    total: int

    @property
    def chips(self) -> Pixels:
        """The faces' chips, uint8 (n, 150, 150, 3)."""
        if not self.faces:
            return np.zeros((0, CHIP_SIDE, CHIP_SIDE, 3), np.uint8)
        return np.stack([one.chip for one in self.faces])


class FaceFinder:
    """Finds faces. Not safe among threads.

    Args:
        far: The detector for all distances.
        near: The one for faces that fill the picture.
        mesh: The face mesh.
    """

    def __init__(self, far: Detector, near: Detector, mesh: FaceMesh) -> None:
        self._far = far
        self._near = near
        self._mesh = mesh

    def look(self, picture: Pixels, most: int) -> Seen:
        """The faces of a picture, the largest first.

        Args:
            picture: RGB uint8 (height, width, 3), upright, of any size.
            most: Only so many.
        """
        detections = self.detect(picture)
        sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).max(axis=1, initial=0)
        detections = detections.where(np.argsort(-sides, kind="stable"))
        faces: list[FoundFace] = []
        doubted = 0
        for number in range(len(detections)):
            if len(faces) == most:
                break
            face = self._measured(picture, detections, number)
            if face is None:
                doubted += 1
            else:
                faces.append(face)
        return Seen(faces, len(detections) - doubted)

    def follow(self, picture: Pixels, previous: FoundFace) -> FoundFace | None:
        """The face of the frame before where it is now; None if it is not there any more."""
        mesh, presence = self._mesh(picture, around_mesh(previous.mesh))
        if presence < _LEAST_PRESENCE:
            return None
        return _found(picture, mesh, presence, previous.face.score)

    def detect(self, picture: Pixels) -> Detections:
        """Boxes and points of all faces, each once, the surest first."""
        small, scale = _reduced(picture)
        # The far one overlooks one in nine faces that fill the frame, and the near one small ones.
        found = [self._far(small), self._near(small)]
        found += [self._in_tile(small, left, top) for left, top in _tiles(*small.shape[:2])]
        return Detections.joined(found).merged(_OVERLAP).moved(scale=1 / scale, left=0, top=0)

    def _in_tile(self, picture: Pixels, left: int, top: int) -> Detections:
        """The faces of a part, without those that the part's border may have cut."""
        height, width = picture.shape[:2]
        found = self._far(picture[top : top + _TILE, left : left + _TILE])
        low = np.array([0 if left else -np.inf, 0 if top else -np.inf])
        high = np.array(
            [
                _TILE if left + _TILE < width else np.inf,
                _TILE if top + _TILE < height else np.inf,
            ]
        )
        inside = np.hstack([found.boxes[:, :2] > low, found.boxes[:, 2:] < high])
        whole = np.flatnonzero(inside.all(axis=1))
        return found.where(whole).moved(scale=1, left=left, top=top)

    def _measured(self, picture: Pixels, found: Detections, number: int) -> FoundFace | None:
        points = found.points[number]
        region = around_box(found.boxes[number], points[RIGHT_EYE], points[LEFT_EYE])
        mesh, presence = self._mesh(picture, region)
        if presence < _LEAST_PRESENCE:
            return None
        return _found(picture, mesh, presence, float(found.scores[number]))


def open_finder(weights: Weights, *, threads: int) -> FaceFinder:
    """A finder with the weights of this machine.

    Raises:
        WeightsMissing: They are not here; says what helps.
    """
    file = weights.find(WEIGHTS)
    folder: Path = file.path.parent
    return FaceFinder(
        Detector(file.path, FULL_RANGE, threads=threads),
        Detector(folder / _SHORT_RANGE_FILE, SHORT_RANGE, threads=threads),
        FaceMesh(folder / _MESH_FILE, threads=threads),
    )


def _found(picture: Pixels, mesh: Points, presence: float, score: float) -> FoundFace:
    chip = chip_of(picture, mesh)
    outside = outside_share(mesh, *picture.shape[:2])
    quality = quality_of(chip, pose_of(mesh), Signs(presence, outside))
    low, high = mesh[:, :2].min(axis=0), mesh[:, :2].max(axis=0)
    (x, y), (width, height) = low.tolist(), (high - low).tolist()
    face = Face(
        box=Box(
            x=round(x, 1),
            y=round(y, 1),
            width=round(width, 1) or 0.1,
            height=round(height, 1) or 0.1,
        ),
        score=round(score, 4),
        landmarks={name: _point(mesh, places) for name, places in landmarks.NAMED.items()},
        quality=quality,
    )
    return FoundFace(face, mesh, chip)


def _point(mesh: Points, places: tuple[int, ...]) -> Point:
    x, y = mesh[list(places), :2].mean(axis=0).tolist()
    return Point(x=round(x, 1), y=round(y, 1))


def _reduced(picture: Pixels) -> tuple[Pixels, float]:
    """The picture at no more than `LONGEST_SIDE`, and what it was scaled by."""
    height, width = picture.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return picture, 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _tiles(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Left and top of overlapping squares that cover a picture; none for one that is small."""
    if max(height, width) <= 1.25 * _TILE:
        return
    for top in _starts(height):
        for left in _starts(width):
            yield left, top


def _starts(length: int) -> list[int]:
    """Where parts of `_TILE` begin that cover a length, overlapping by a fifth at least."""
    if length <= _TILE:
        return [0]
    count = -(-(length - _TILE) // int(_TILE * 0.8)) + 1
    return [round(number * (length - _TILE) / (count - 1)) for number in range(count)]
