"""People who may be recognised, as the API tells of them and as the database takes them."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from contracts.faces.faces import DEFAULT_MARGIN, DEFAULT_SIMILARITY, FACE_MODEL, Quality
from contracts.queue.messages import Vector

SUBJECT_ID = r"^sub_[A-Za-z0-9_-]{1,60}$"
MOST_NAME = 200
MOST_METADATA_BYTES = 16 * 1024
MOST_METADATA_DEPTH = 32
"""Levels; beyond some hundred it could be kept and never be told again."""
MOST_TEMPLATES = 32
"""Templates that a subject may have of one embedder; more show nothing new of a face."""
LENGTH = 128
"""Numbers of an embedding."""

TemplateSource = Literal["image", "video"]
EventKind = Literal["login", "verify", "identify", "enrollment", "erasure", "threshold"]


def embedder_of(version: int) -> str:
    """What a template says of the network that made it: only such of the same are comparable."""
    return f"{FACE_MODEL}:{version}"


class TemplateCounts(BaseModel):
    """How many templates a subject has."""

    current: int = Field(description="Of the embedder in force; these are compared with.")
    stale: int = Field(
        description="Of an earlier embedder, and of no use until made anew from kept frames."
    )


class Subject(BaseModel):
    """One person."""

    id: str
    name: str
    external_id: str | None = Field(None, description="What you call the person; unique.")
    metadata: dict[str, Any] = {}
    keep_frames: bool = Field(
        description="Whether the frames that templates were made of are kept, sealed."
    )
    templates: TemplateCounts
    files: int = Field(description="Frames that are kept.")
    created_at: datetime
    updated_at: datetime


class _Described(BaseModel):
    # A misspelt field would silently be left out.
    model_config = ConfigDict(extra="forbid")

    @field_validator("name", "external_id", check_fields=False)
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and (not value.isprintable() or value != value.strip()):
            raise ValueError("printable characters only, and no spaces at the ends")
        return value

    @field_validator("metadata", check_fields=False)
    @classmethod
    def _bounded(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        # Also refuses what JSON cannot say: NaN, and halves of characters.
        if len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) > (
            MOST_METADATA_BYTES
        ):
            raise ValueError(f"at most {MOST_METADATA_BYTES} bytes as JSON")
        if _depth(value) > MOST_METADATA_DEPTH:
            raise ValueError(f"at most {MOST_METADATA_DEPTH} levels")
        return value


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted to one beyond what may be."""
    depth, level = 0, [value]
    while level and depth <= MOST_METADATA_DEPTH:
        inner = [one for one in level if isinstance(one, dict | list)]
        level = [
            below for one in inner for below in (one.values() if isinstance(one, dict) else one)
        ]
        depth += bool(inner)
    return depth


class NewSubject(_Described):
    """A person to be added."""

    name: str = Field(min_length=1, max_length=MOST_NAME, examples=["Ada Lovelace"])
    external_id: str | None = Field(
        None,
        min_length=1,
        max_length=MOST_NAME,
        description="What you call the person, e.g. the user's id; unique.",
        examples=["user-42"],
    )
    metadata: dict[str, Any] = Field(
        {}, description="Anything of yours, at most 16 KiB as JSON and 32 levels."
    )
    keep_frames: bool = Field(
        False,
        description="Keep, sealed, the frames that templates are made of, so that they can be "
        "made anew when the embedder changes, and for trainings.",
    )


class SubjectChange(_Described):
    """What to change of a subject; what is left out stays."""

    name: str = Field("", min_length=1, max_length=MOST_NAME)
    external_id: str | None = Field(
        None, min_length=1, max_length=MOST_NAME, description="null: none any more."
    )
    metadata: dict[str, Any] = Field({}, description="Replaces all of it.")
    keep_frames: bool = Field(
        False, description="false also removes the frames that were kept until now."
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("send at least one of: name, external_id, metadata, keep_frames")
        return self


class ErasedModel(BaseModel):
    """A version that was trained on the subject's frames."""

    model: str
    version: int


class ErasedCounts(BaseModel):
    """What is gone for good."""

    templates: int
    files: int
    models: list[ErasedModel] = Field(
        [], description="Versions that a training of subjects made of it, and their int8 copies."
    )


class Erased(BaseModel):
    """The answer to the deletion of a subject."""

    erased: ErasedCounts


class Threshold(BaseModel):
    """From which similarity on two faces count as one person's, and where that comes from."""

    model_config = ConfigDict(frozen=True)

    similarity: float = Field(gt=-1, lt=1, description="Cosine of the embeddings.")
    margin: float = Field(
        DEFAULT_MARGIN,
        ge=0,
        le=0.5,
        description="What lies closer under it than this is uncertain, and so is a match while "
        "another subject is nearer than this to the best.",
    )
    embedder: str | None = Field(None, description="For which embedder it was measured.")
    target_fmr: float | None = Field(None, description="The false-match rate it was chosen for.")
    source: Literal["default", "calibration", "manual"] = "manual"
    measured_on: str | None = Field(None, description="The data it comes from.")
    updated_at: datetime | None = None
    stale: bool = Field(
        False,
        description="Whether it was measured for another embedder than the one in force. Then the "
        "stricter one of it and the default decides: calibrate anew.",
    )

    def held_for(self, embedder: str | None) -> Self:
        """What decides on embeddings of that embedder; None: nobody knows which it is."""
        if self.embedder is None or embedder is None or self.embedder == embedder:
            return self
        strict = max(self.similarity, DEFAULT_SIMILARITY)
        return self.model_copy(update={"similarity": strict, "stale": True})


DEFAULT_THRESHOLD = Threshold(
    similarity=DEFAULT_SIMILARITY,
    margin=DEFAULT_MARGIN,
    target_fmr=0.001,
    source="default",
    measured_on="460 faces of 40 people: ORL, Caltech 101, press photos",
)
"""In force until somebody sets another; see `contracts.faces.faces.DEFAULT_SIMILARITY`."""


class NewThreshold(BaseModel):
    """A threshold to be put in force."""

    model_config = ConfigDict(extra="forbid")

    similarity: float | None = Field(
        None, gt=-1, lt=1, examples=[0.95], description="Cosine of the embeddings."
    )
    calibration_job_id: str | None = Field(
        None,
        max_length=64,
        description="In place of a similarity: the job of `POST /v1/faces/calibrations` whose "
        "threshold, rate and data are taken over.",
    )
    margin: float = Field(DEFAULT_MARGIN, ge=0, le=0.5, description="See the answer.")
    target_fmr: float | None = Field(None, gt=0, lt=1)
    source: Literal["calibration", "manual"] = "manual"
    measured_on: str | None = Field(None, max_length=200, description="E.g. the dataset's id.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.similarity is None) == (self.calibration_job_id is None):
            raise ValueError("send either similarity or calibration_job_id")
        return self


class FaceEvent(BaseModel):
    """One line of the audit. It holds no picture, no embedding and no name."""

    id: int
    at: datetime
    kind: EventKind
    subject_id: str | None
    outcome: str = Field(description="A decision, an error's code, or what was done.")
    reason: str | None
    device: str | None = Field(description="Digest of the device's id or address, keyed.")
    digest: str | None = Field(description="Digest of what was sent, keyed; null once erased.")
    request_id: str | None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """A line for the audit; `device` and `content` are kept as keyed digests only."""

    kind: EventKind
    outcome: str
    subject_id: str | None = None
    reason: str | None = None
    device: str | None = None
    content: bytes | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """The picture a template was made of: an aligned face or whole frame, as a file."""

    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """An embedding to be kept.

    Attributes:
        vector: (128,) float32 of length 1.
        quality: Of the face it was made of.
        source: What the client sent.
        frame: What it was made of; kept only where the subject's record says so.
        id: ``tpl_…``, where whoever adds it must know it again; None: a new one.
    """

    vector: Vector
    quality: Quality
    source: TemplateSource
    frame: Frame | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """A kept embedding, opened.

    Attributes:
        id: ``tpl_…``.
        vector: (128,) float32 of length 1.
        quality: Of the face it was made of.
        source: What the client sent.
        file_id: The kept frame; None where there is none.
        created_at: When it was kept.
    """

    id: str
    vector: Vector
    quality: Quality
    source: TemplateSource
    file_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subject who may be the one, and how near: the cosine to its nearest template."""

    subject_id: str
    similarity: float


class FaceSearch(Protocol):
    """Finds who is near. It blocks; call it from a thread."""

    def nearest(
        self, vectors: Vector, *, embedder: str, above: float, most: int
    ) -> list[list[Candidate]]:
        """For each vector the nearest subjects, the nearest first.

        Args:
            vectors: (n, 128) float32, each of length 1.
            embedder: What made them; templates of others are not looked at.
            above: Who is less similar than this is no candidate.
            most: Candidates for each, at most.

        Raises:
            Unavailable: The database does not answer.
        """
        ...

    def forget(self) -> None:
        """Drop at once what was erased or changed since the last search, if anything is held."""
        ...
