"""Faces found in a reduced image, in pixels of the image that was sent."""

from collections.abc import Iterable

from contracts.faces.faces import Box, Face, Point
from models.images.decode import DecodedImage


def in_original(faces: Iterable[Face], image: DecodedImage) -> tuple[Face, ...]:
    """The faces of a reduced image in pixels of its original, upright."""
    height, width, _ = image.pixels.shape
    x_scale, y_scale = image.width / width, image.height / height
    return tuple(_scaled(face, x_scale, y_scale) for face in faces)


def _scaled(face: Face, x_scale: float, y_scale: float) -> Face:
    box = face.box
    return face.model_copy(
        update={
            "box": Box(
                x=round(box.x * x_scale, 2),
                y=round(box.y * y_scale, 2),
                width=max(0.01, round(box.width * x_scale, 2)),
                height=max(0.01, round(box.height * y_scale, 2)),
            ),
            "landmarks": {
                name: Point(x=round(point.x * x_scale, 2), y=round(point.y * y_scale, 2))
                for name, point in face.landmarks.items()
            },
        }
    )
