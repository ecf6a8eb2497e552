"""What the API answers when faces are found and compared."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from contracts.faces.faces import Box, Decision, Face, QualityReason


class DetectedFaces(BaseModel):
    """The faces of a picture, the largest first."""

    width: int = Field(description="Of the picture that was sent, upright.")
    height: int
    faces: list[Face]
    total: int = Field(description="Faces found, those beyond `limit` too.")


class Login(BaseModel):
    """Whether somebody is let in. How near the faces are is told to nobody."""

    decision: Decision
    reason: str | None = Field(
        None,
        description="Null for a match; else near_threshold, another_subject, low_quality_face, "
        "not_similar, not_enrolled, or what a clip failed by.",
    )
    quality_reasons: tuple[QualityReason, ...] = Field(
        (), description="Why a face could not be told well enough."
    )
    token: str | None = Field(None, description="A signed JWT; only with a match.")
    expires_at: datetime | None = None


class Verification(BaseModel):
    """Whether two faces are one person's."""

    match: bool
    decision: Decision
    reason: str | None = None
    similarity: float = Field(description="Cosine of the embeddings, -1 to 1.")
    threshold: float


class NamedCandidate(BaseModel):
    """Somebody who may be the one."""

    subject_id: str
    name: str
    similarity: float


class IdentifiedFace(BaseModel):
    """A face, and who it may be. Nobody who is known: no candidates."""

    box: Box
    decision: Decision
    reason: str | None = None
    candidates: list[NamedCandidate]


class Identification(BaseModel):
    """The faces of a picture, the largest first, and who they may be."""

    faces: list[IdentifiedFace]
    threshold: float


class JsonWebKeys(BaseModel):
    """The public halves of the keys that sign tokens (RFC 7517)."""

    keys: list[dict[str, Any]]
