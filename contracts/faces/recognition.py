"""Responses of the endpoints that detect and compare faces."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from contracts.faces.faces import Box, Decision, Face, QualityReason


class DetectedFaces(BaseModel):
    """The faces in an image, largest first."""

    width: int = Field(description="Of the uploaded image, upright.")
    height: int
    faces: list[Face]
    total: int = Field(description="Faces found, including those beyond `limit`.")


class Login(BaseModel):
    """Result of a login. It does not say how similar the faces are."""

    decision: Decision
    reason: str | None = Field(
        None,
        description="Null for a match; otherwise near_threshold, another_subject, "
        "low_quality_face, not_similar, not_enrolled, wrong_signature, or the first fault of a "
        "clip.",
    )
    quality_reasons: tuple[QualityReason, ...] = Field(
        (), description="Why the face is not clear enough to be recognized."
    )
    token: str | None = Field(None, description="A signed JWT; only with a match.")
    expires_at: datetime | None = None


class Verification(BaseModel):
    """Whether two faces belong to the same person."""

    match: bool
    decision: Decision
    reason: str | None = None
    similarity: float = Field(description="Cosine of the embeddings, -1 to 1.")
    threshold: float


class NamedCandidate(BaseModel):
    """A subject whose face matches."""

    subject_id: str
    name: str
    similarity: float


class IdentifiedFace(BaseModel):
    """A face and the subjects it may belong to; no candidates if it matches no subject."""

    box: Box
    decision: Decision
    reason: str | None = None
    candidates: list[NamedCandidate]


class Identification(BaseModel):
    """The faces in an image, largest first, and the subjects they may belong to."""

    faces: list[IdentifiedFace]
    threshold: float


class JsonWebKeys(BaseModel):
    """The public keys for verifying tokens, as a JWK set (RFC 7517)."""

    keys: list[dict[str, Any]]
