"""Faces, as the API tells them and as they travel between the API and a worker.

The lane ``faces`` takes a picture of any size, reduced to `LONGEST_SIDE`, and answers with a
`FacesNote`; its vector holds one embedding a face, one after the other, float32, each of length 1,
or nothing where none was asked for.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.inference.inference import LaneOperation

FACE_MODEL = "face_embedder"
"""The network whose lanes answer for faces."""
FACE_OPERATIONS: tuple[LaneOperation, ...] = ("embed", "faces", "clip")
"""All that it can be asked for."""
LONGEST_SIDE = 1280
"""Pixels of the long side at which faces are looked for; larger pictures are reduced first."""

DEFAULT_SIMILARITY = 0.948
"""The similarity from which on two faces are one person's, until a calibration of one's own.

The strictest of the calibrations for a false-match rate of 1 in 1,000 on three small sets of faces,
each with itself (`models.faces.calibration.calibration`; grey ORL faces 0.933, Caltech's faces
0.947; 33 press photos make too few pairs for a threshold of their own). On all three at 0.948: 19
of 42,918 pairs of different people match (1 in 2,300; 1 in 1,200 of Caltech's), and 51 of 3,161
pairs of the same person do not (1.6 %). 40 people are few, and look-alikes decide:
docs/explanation/faces.md.
"""
DEFAULT_MARGIN = 0.01
"""How far under the threshold it is uncertain, and how near a second person may be to the best.

One of those 460 faces was that near to the second of the 40 people.
"""

DOMINATES = 4.0
"""How many times the area of any other face the one has that a picture is of."""

QualityReason = Literal[
    "too_small", "too_dark", "too_bright", "blurred", "extreme_pose", "off_frame", "occluded"
]
Decision = Literal["match", "no_match", "uncertain"]


class Box(BaseModel):
    """Where a face is, in pixels of the upright picture; it may reach beyond the picture."""

    model_config = ConfigDict(frozen=True)

    x: float = Field(description="Of the left edge.")
    y: float = Field(description="Of the upper edge.")
    width: float = Field(gt=0)
    height: float = Field(gt=0)


class Point(BaseModel):
    """A place in pixels of the upright picture."""

    model_config = ConfigDict(frozen=True)

    x: float
    y: float


class Quality(BaseModel):
    """How far a face is fit to be recognised."""

    model_config = ConfigDict(frozen=True)

    sharpness: float = Field(ge=0, description="Variance of the Laplacian of the aligned face.")
    brightness: float = Field(ge=0, le=255, description="Mean luma of the aligned face.")
    yaw: float = Field(description="Degrees; positive: the person's head turned to their left.")
    pitch: float = Field(description="Degrees; positive: looking up.")
    roll: float = Field(description="Degrees; positive: tilted clockwise as seen in the picture.")
    size: float = Field(gt=0, description="Pixels between the eyes, as if seen from the front.")
    acceptable: bool
    reasons: tuple[QualityReason, ...] = ()


class Face(BaseModel):
    """One face of a picture."""

    model_config = ConfigDict(frozen=True)

    box: Box
    score: float = Field(ge=0, le=1, description="How sure the detector is.")
    landmarks: dict[str, Point] = Field(
        description="right_eye, left_eye (the person's own), nose, mouth_right, mouth_left, chin."
    )
    quality: Quality


class FacesAsk(BaseModel):
    """What is asked of a picture on the lane ``faces``."""

    model_config = ConfigDict(frozen=True)

    task: Literal["faces"] = "faces"
    embed: bool = Field(False, description="Whether the embeddings are wanted.")
    most: int = Field(32, ge=1, le=256, description="Only so many, the largest first.")

    def pack(self) -> bytes:
        """As it travels in the item's note."""
        return self.model_dump_json().encode()


class FacesNote(BaseModel):
    """What was found, the largest face first; boxes in pixels of the picture that was sent."""

    model_config = ConfigDict(frozen=True)

    faces: tuple[Face, ...]
    total: int = Field(description="Faces found, those beyond `most` too.")

    def pack(self) -> bytes:
        """As it travels in the reply's note."""
        return self.model_dump_json().encode()
