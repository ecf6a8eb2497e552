"""Subjects, their templates and the match threshold, as the API and the database exchange them."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from contracts.bodies import Body
from contracts.faces.consent import Consent, NewConsent
from contracts.faces.faces import DEFAULT_MARGIN, DEFAULT_SIMILARITY, FACE_MODEL, Quality
from contracts.names import OpaqueId, printable_name
from contracts.queue.messages import Vector

SUBJECT_ID = r"^sub_[A-Za-z0-9_-]{1,60}$"
MAX_NAME_LENGTH = 200
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 32
"""Levels of nesting; JSON hundreds of levels deep could be stored but not serialized again."""
MAX_TEMPLATES = 32
"""Templates per subject and embedder; more would show nothing new of a face."""
EMBEDDING_SIZE = 128
"""Numbers in an embedding."""

_Name = Annotated[
    str,
    Field(min_length=1, max_length=MAX_NAME_LENGTH),
    AfterValidator(partial(printable_name, most=MAX_NAME_LENGTH)),
]
TemplateSource = Literal["image", "video"]
EventKind = Literal["login", "verify", "identify", "enrollment", "erasure", "threshold"]


def embedder_of(version: int) -> str:
    """Name of a version of the face embedder, stored with each template.

    Only templates of the same embedder are comparable.
    """
    return f"{FACE_MODEL}:{version}"


class TemplateCounts(BaseModel):
    """Number of templates of a subject."""

    current: int = Field(description="Of the current embedder; faces are compared with these.")
    stale: int = Field(
        description="Of an earlier embedder; unused until recomputed from stored frames."
    )


class Subject(BaseModel):
    """One person."""

    id: str
    name: str
    external_id: str | None = Field(None, description="Your id of the person; unique.")
    metadata: dict[str, Any] = {}
    keep_frames: bool = Field(
        description="Whether the frames behind the templates are stored, encrypted."
    )
    templates: TemplateCounts
    files: int = Field(description="Number of stored frames.")
    consent: Consent | None = Field(None, description="What the person agreed to, if recorded.")
    face_disabled: bool = Field(
        False,
        description="Whether the face is disabled after too many failures in a row. A login with "
        "the signature of a registered device, or `face_disabled: false`, enables it again.",
    )
    last_used_at: datetime | None = Field(
        None, description="Last enrollment or match, accurate to an hour."
    )
    created_at: datetime
    updated_at: datetime


class _SubjectFields(Body):
    @field_validator("metadata", check_fields=False)
    @classmethod
    def _check_metadata(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        # Also rejects what JSON cannot express: NaN and lone surrogates.
        if len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode()) > (
            MAX_METADATA_BYTES
        ):
            raise ValueError(f"at most {MAX_METADATA_BYTES} bytes as JSON")
        if _depth(value) > MAX_METADATA_DEPTH:
            raise ValueError(f"at most {MAX_METADATA_DEPTH} levels")
        return value


def _depth(value: Any) -> int:
    """Levels of nested lists and objects; stops counting at one above the maximum."""
    depth, level = 0, [value]
    while level and depth <= MAX_METADATA_DEPTH:
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [
            child
            for container in containers
            for child in (container.values() if isinstance(container, dict) else container)
        ]
        depth += bool(containers)
    return depth


class NewSubject(_SubjectFields):
    """Request to add a person."""

    name: _Name = Field(examples=["Ada Lovelace"])
    external_id: OpaqueId | None = Field(
        None,
        description="Your id of the person, e.g. a user id; unique, in visible characters.",
        examples=["user-42"],
    )
    metadata: dict[str, Any] = Field(
        {}, description="Any JSON object, at most 16 KiB and 32 levels deep."
    )
    keep_frames: bool = Field(
        False,
        description="Store the frames behind the templates, encrypted. They are used for "
        "recomputing templates when the embedder changes, and for trainings.",
    )
    consent: NewConsent | None = None


def _no_default(schema: dict[str, Any]) -> None:
    """Generated clients may send the defaults of a schema, and here each field is a change."""
    schema.pop("default", None)


class SubjectChange(_SubjectFields):
    """Changes to a subject; omitted fields stay as they are."""

    name: _Name = Field("", json_schema_extra=_no_default)
    external_id: OpaqueId | None = Field(
        None, description="null removes it.", json_schema_extra=_no_default
    )
    metadata: dict[str, Any] = Field(
        {}, description="Replaces all metadata.", json_schema_extra=_no_default
    )
    keep_frames: bool = Field(
        False,
        description="false also deletes the stored frames.",
        json_schema_extra=_no_default,
    )
    consent: NewConsent | None = Field(
        None, description="null withdraws it.", json_schema_extra=_no_default
    )
    face_disabled: bool = Field(
        False,
        description="false enables a face that was disabled after too many failures, once the "
        "person has proved who they are in another way; true disables it.",
        json_schema_extra=_no_default,
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            fields = ", ".join(type(self).model_fields)
            raise ValueError(f"send at least one of: {fields}")
        return self


class ErasedModel(BaseModel):
    """A deleted model version that was trained on the subject's frames."""

    model: str
    version: int


class ErasedCounts(BaseModel):
    """What was deleted permanently."""

    templates: int
    files: int
    models: list[ErasedModel] = Field(
        [],
        description="Versions that were trained on the subject's frames, and their int8 copies.",
    )


class Erased(BaseModel):
    """Response to the deletion of a subject."""

    erased: ErasedCounts


class Threshold(BaseModel):
    """The similarity at which two faces match, and where the value comes from."""

    model_config = ConfigDict(frozen=True)

    similarity: float = Field(gt=-1, lt=1, description="Cosine of the embeddings.")
    margin: float = Field(
        DEFAULT_MARGIN,
        ge=0,
        le=0.5,
        description="A similarity less than this below the threshold is uncertain, and so is a "
        "match if another subject is less than this behind the best.",
    )
    embedder: str | None = Field(None, description="The embedder that it was measured with.")
    target_fmr: float | None = Field(None, description="The false match rate it was chosen for.")
    source: Literal["default", "calibration", "manual"] = "manual"
    measured_on: str | None = Field(None, description="The data that it was measured on.")
    updated_at: datetime | None = None
    stale: bool = Field(
        False,
        description="Whether it was measured with an embedder other than the current one. If so, "
        "the stricter of it and the default applies: calibrate again.",
    )

    def effective_for(self, embedder: str | None) -> Self:
        """The threshold to use for an embedder; None if the embedder is unknown."""
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
"""Used until the operator sets another; see `contracts.faces.faces.DEFAULT_SIMILARITY`."""


class NewThreshold(Body):
    """Request to set the threshold."""

    similarity: float | None = Field(
        None, gt=-1, lt=1, examples=[0.95], description="Cosine of the embeddings."
    )
    calibration_job_id: str | None = Field(
        None,
        max_length=64,
        description="Instead of a similarity: the job of `POST /v1/faces/calibrations` whose "
        "threshold, rate and data to adopt.",
    )
    margin: float = Field(DEFAULT_MARGIN, ge=0, le=0.5, description="See the response.")
    target_fmr: float | None = Field(None, gt=0, lt=1)
    source: Literal["calibration", "manual"] = "manual"
    measured_on: _Name | None = Field(None, description="E.g. the dataset's id.")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.similarity is None) == (self.calibration_job_id is None):
            raise ValueError("send either similarity or calibration_job_id")
        return self


class FaceEvent(BaseModel):
    """One entry of the audit log. It holds no image, no embedding and no name."""

    id: int
    at: datetime
    kind: EventKind
    subject_id: str | None
    outcome: str = Field(description="A decision, an error code, or the action taken.")
    reason: str | None
    device: str | None = Field(description="Keyed hash of the device's id or address.")
    digest: str | None = Field(description="Keyed hash of the upload; null after an erasure.")
    request_id: str | None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An entry for the audit log; of `device` and `content` only keyed hashes are stored."""

    kind: EventKind
    outcome: str
    subject_id: str | None = None
    reason: str | None = None
    device: str | None = None
    content: bytes | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """The image behind a template, an aligned face or a whole frame, as a file."""

    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """An embedding to store.

    Attributes:
        vector: (128,) float32 of unit length.
        frame: The image behind it; stored only if the subject has `keep_frames`.
        id: ``tpl_…``, if the caller needs a fixed id; None generates one.
    """

    vector: Vector
    quality: Quality
    source: TemplateSource
    frame: StoredFrame | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """A stored embedding, decrypted.

    Attributes:
        id: ``tpl_…``.
        vector: (128,) float32 of unit length.
        file_id: The stored frame, if there is one.
    """

    id: str
    vector: Vector
    quality: Quality
    source: TemplateSource
    file_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subject who may match, and the cosine similarity to its nearest template."""

    subject_id: str
    similarity: float


class FaceSearch(Protocol):
    """Nearest-neighbor search among all templates. Its methods block; call them from a thread."""

    def nearest(
        self, vectors: Vector, *, embedder: str, min_similarity: float, limit: int
    ) -> list[list[Candidate]]:
        """Find the nearest subjects for each vector, nearest first.

        Args:
            vectors: (n, 128) float32, each of unit length.
            embedder: Only templates of this embedder are searched.
            min_similarity: Less similar subjects are not candidates.
            limit: Maximum number of candidates per vector.

        Raises:
            Unavailable: The database does not answer.
        """
        ...

    def refresh(self) -> None:
        """Drop cached templates that were erased or changed since the last search."""
        ...
