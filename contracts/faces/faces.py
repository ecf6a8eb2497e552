"""Faces in API responses, and the messages of the queue `faces`.

An item of that queue is an image reduced to `LONGEST_SIDE`. The reply carries a `FacesReply`; its
vector holds one float32 embedding of unit length per face, one after the other, or nothing if
embeddings were not requested.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.inference.inference import Operation

FACE_MODEL = "face_embedder"
"""The network whose queues process faces."""
FINDER_WEIGHTS = "face_finder"
"""The weights that find faces, which it needs besides its own."""
FACE_OPERATIONS: tuple[Operation, ...] = ("embed", "faces", "clip")
"""Its operations."""
LONGEST_SIDE = 1280
"""Length in pixels of the long side for face detection; larger images are reduced first."""

DEFAULT_SIMILARITY = 0.948
"""Similarity at which two faces match, until the operator calibrates a threshold.

The strictest of the calibrations for a false match rate of 1 in 1,000 on three small sets of faces,
each compared with itself (`models.faces.calibration.calibration`; gray ORL faces 0.933, Caltech
faces 0.947; 33 press photos make too few pairs for a threshold). On all three at 0.948, 19 of
42,918 pairs of different people match (1 in 2,300; 1 in 1,200 for Caltech), and 51 of 3,161 pairs
of the same person do not (1.6%). 40 people are few, and look-alikes decide the result:
docs/explanation/faces.md.
"""
DEFAULT_MARGIN = 0.01
"""Similarities this far below the threshold are uncertain, and so is a match whose runner-up is
this close to the best.

One of those 460 faces was this close to a second of the 40 people.
"""

MIN_AREA_RATIO = 4.0
"""An image shows one person if the largest face has this many times the area of any other."""

QualityReason = Literal[
    "too_small", "too_dark", "too_bright", "blurred", "extreme_pose", "off_frame", "occluded"
]
Decision = Literal["match", "no_match", "uncertain"]


class Box(BaseModel):
    """Bounding box in pixels of the upright image; it may extend beyond the image."""

    model_config = ConfigDict(frozen=True)

    x: float = Field(description="Left edge.")
    y: float = Field(description="Upper edge.")
    width: float = Field(gt=0)
    height: float = Field(gt=0)


class Point(BaseModel):
    """A point in pixels of the upright image."""

    model_config = ConfigDict(frozen=True)

    x: float
    y: float


class Quality(BaseModel):
    """Whether a face is good enough to be recognized."""

    model_config = ConfigDict(frozen=True)

    sharpness: float = Field(ge=0, description="Variance of the Laplacian of the aligned face.")
    brightness: float = Field(ge=0, le=255, description="Mean luma of the aligned face.")
    yaw: float = Field(description="Degrees; positive: the person's head turned to their left.")
    pitch: float = Field(description="Degrees; positive: looking up.")
    roll: float = Field(description="Degrees; positive: tilted clockwise as seen in the image.")
    size: float = Field(gt=0, description="Pixels between the eyes, corrected for pose.")
    acceptable: bool
    reasons: tuple[QualityReason, ...] = ()


class Face(BaseModel):
    """One face in an image."""

    model_config = ConfigDict(frozen=True)

    box: Box
    score: float = Field(ge=0, le=1, description="Confidence of the detector.")
    landmarks: dict[str, Point] = Field(
        description="right_eye, left_eye (the person's own), nose, mouth_right, mouth_left, chin."
    )
    quality: Quality


class FacesRequest(BaseModel):
    """Request for one image."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, serialize_by_alias=True)

    task: Literal["faces"] = "faces"
    embed: bool = Field(False, description="Whether to compute embeddings.")
    max_faces: int = Field(
        32, ge=1, le=256, alias="most", description="Maximum number of faces, largest first."
    )

    portrait: bool = Field(
        False, description="Whether to crop the largest face for a classifier of faces."
    )

    def pack(self) -> bytes:
        """Encode for the item's note."""
        return self.model_dump_json().encode()


class FacesReply(BaseModel):
    """The faces found, largest first; boxes in pixels of the image in the item."""

    model_config = ConfigDict(frozen=True)

    faces: tuple[Face, ...]
    total: int = Field(description="Faces found, including those beyond the maximum.")
    portrait: str | None = Field(
        None, description="Base64 of a PNG, see `models.faces.portrait`; null if not requested."
    )

    def pack(self) -> bytes:
        """Encode for the reply's note."""
        return self.model_dump_json().encode()
