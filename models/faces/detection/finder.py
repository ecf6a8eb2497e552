"""Finds faces in an image of any size: detects, meshes, aligns and measures them, no embeddings."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from contracts.faces.faces import FINDER_WEIGHTS, LONGEST_SIDE, Box, Face, Point
from contracts.queue.messages import Pixels
from models.faces.detection import landmarks
from models.faces.detection.alignment import align
from models.faces.detection.detection import (
    CROP_SIDE,
    LEFT_EYE,
    RIGHT_EYE,
    DetectedFace,
    Detections,
    Points,
)
from models.faces.detection.detector import FULL_RANGE, SHORT_RANGE, Detector
from models.faces.detection.mesh import FaceMesh, region_of_box, region_of_mesh
from models.faces.detection.pose import pose_of
from models.faces.detection.quality import MeshSigns, outside_share, quality_of
from models.weights.catalog import Weights

_SHORT_RANGE_FILE = "face_detection_short_range.tflite"
_MESH_FILE = "face_landmark.tflite"

# The confidence of the mesh, a logit: below this there is no face, whatever the detector says.
_MIN_PRESENCE = 0.0
_OVERLAP = 0.3
# The detector misses faces smaller than about 8 of its 192 pixels, so large images are also
# searched in tiles.
_TILE = 640


@dataclass(frozen=True, slots=True)
class FoundFaces:
    """The faces in an image.

    Attributes:
        faces: Largest first.
        total: Number of faces, including those beyond the maximum.
    """

    faces: list[DetectedFace]
    total: int

    @property
    def crops(self) -> Pixels:
        """The aligned crops of the faces, uint8 (n, 150, 150, 3)."""
        if not self.faces:
            return np.zeros((0, CROP_SIDE, CROP_SIDE, 3), np.uint8)
        return np.stack([face.crop for face in self.faces])


class FaceFinder:
    """Finds faces. Not thread-safe.

    Args:
        far: The detector for all distances.
        near: The detector for faces that fill the image.
    """

    def __init__(self, far: Detector, near: Detector, mesh: FaceMesh) -> None:
        self._far = far
        self._near = near
        self._mesh = mesh

    def find(self, image: Pixels, max_faces: int) -> FoundFaces:
        """Find the faces in an image, largest first.

        Args:
            image: RGB uint8 (height, width, 3), upright, of any size.
        """
        detections = self.detect(image)
        sides = (detections.boxes[:, 2:] - detections.boxes[:, :2]).max(axis=1, initial=0)
        detections = detections.select(np.argsort(-sides, kind="stable"))
        faces: list[DetectedFace] = []
        rejected = 0
        for index in range(len(detections)):
            if len(faces) == max_faces:
                break
            face = self._measure(image, detections, index)
            if face is None:
                rejected += 1
            else:
                faces.append(face)
        return FoundFaces(faces, len(detections) - rejected)

    def track(self, image: Pixels, previous: DetectedFace) -> DetectedFace | None:
        """Find the face of the previous frame near its old position; None if it has gone."""
        mesh, presence = self._mesh(image, region_of_mesh(previous.mesh))
        if presence < _MIN_PRESENCE:
            return None
        return _detected_face(image, mesh, presence, previous.face.score)

    def detect(self, image: Pixels) -> Detections:
        """Boxes and points of all faces without duplicates, highest score first."""
        small, scale = _reduce(image)
        # The far detector misses one in nine faces that fill the image, the near one small faces.
        detections = [self._far(small), self._near(small)]
        detections += [self._detect_in_tile(small, *tile) for tile in _tiles(*small.shape[:2])]
        merged = Detections.concatenate(detections).merge(_OVERLAP)
        return merged.transform(scale=1 / scale, left=0, top=0)

    def _detect_in_tile(self, image: Pixels, left: int, top: int) -> Detections:
        """The faces in a tile, except those that the border of the tile may cut."""
        height, width = image.shape[:2]
        detections = self._far(image[top : top + _TILE, left : left + _TILE])
        low = np.array([0 if left else -np.inf, 0 if top else -np.inf])
        high = np.array(
            [
                _TILE if left + _TILE < width else np.inf,
                _TILE if top + _TILE < height else np.inf,
            ]
        )
        inside = np.hstack([detections.boxes[:, :2] > low, detections.boxes[:, 2:] < high])
        whole = np.flatnonzero(inside.all(axis=1))
        return detections.select(whole).transform(scale=1, left=left, top=top)

    def _measure(self, image: Pixels, detections: Detections, index: int) -> DetectedFace | None:
        points = detections.points[index]
        region = region_of_box(detections.boxes[index], points[RIGHT_EYE], points[LEFT_EYE])
        mesh, presence = self._mesh(image, region)
        if presence < _MIN_PRESENCE:
            return None
        return _detected_face(image, mesh, presence, float(detections.scores[index]))


def open_finder(weights: Weights, *, threads: int) -> FaceFinder:
    """A finder with the weights of this machine.

    Raises:
        WeightsMissing: They are missing; says what to do.
    """
    file = weights.find(FINDER_WEIGHTS)
    folder: Path = file.path.parent
    return FaceFinder(
        Detector(file.path, FULL_RANGE, threads=threads),
        Detector(folder / _SHORT_RANGE_FILE, SHORT_RANGE, threads=threads),
        FaceMesh(folder / _MESH_FILE, threads=threads),
    )


def _detected_face(image: Pixels, mesh: Points, presence: float, score: float) -> DetectedFace:
    crop = align(image, mesh)
    outside = outside_share(mesh, *image.shape[:2])
    quality = quality_of(crop, pose_of(mesh), MeshSigns(presence, outside))
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
        landmarks={name: _point(mesh, indices) for name, indices in landmarks.NAMED.items()},
        quality=quality,
    )
    return DetectedFace(face, mesh, crop)


def _point(mesh: Points, indices: tuple[int, ...]) -> Point:
    x, y = mesh[list(indices), :2].mean(axis=0).tolist()
    return Point(x=round(x, 1), y=round(y, 1))


def _reduce(image: Pixels) -> tuple[Pixels, float]:
    """The image with at most `LONGEST_SIDE` pixels per side, and the scale."""
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return image, 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _tiles(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Left and top of overlapping squares that cover an image; none for a small one."""
    if max(height, width) <= 1.25 * _TILE:
        return
    for top in _tile_starts(height):
        for left in _tile_starts(width):
            yield left, top


def _tile_starts(length: int) -> list[int]:
    """Where tiles start so that they cover a length and overlap by a fifth at least."""
    if length <= _TILE:
        return [0]
    count = -(-(length - _TILE) // int(_TILE * 0.8)) + 1
    return [round(index * (length - _TILE) / (count - 1)) for index in range(count)]
