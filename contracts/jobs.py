"""Jobs as clients see them, and the constants that the API and the workers share."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, field_serializer

from contracts.keys import Scope
from contracts.public_paths import public_path
from contracts.queue.redis_keys import DATASET_QUEUE, FACE_QUEUE, IMAGE_QUEUE, TRAINING_QUEUE

JobKind = Literal[
    "classify",
    "embed",
    "training",
    "sweep",
    "dataset_import",
    "dataset_video",
    "filters",
    "heatmap",
    "activations",
    "quantize",
    "evaluation",
    "style_transfer",
    "dream",
    "enrollment",
    "calibration",
    "face_detection",
]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
WORK_QUEUES: dict[JobKind, str] = {
    "training": TRAINING_QUEUE,
    "sweep": TRAINING_QUEUE,
    "quantize": TRAINING_QUEUE,
    "evaluation": DATASET_QUEUE,
    "dataset_import": DATASET_QUEUE,
    "dataset_video": DATASET_QUEUE,
    "filters": IMAGE_QUEUE,
    "heatmap": IMAGE_QUEUE,
    "activations": IMAGE_QUEUE,
    "style_transfer": IMAGE_QUEUE,
    "dream": IMAGE_QUEUE,
    "enrollment": FACE_QUEUE,
    "calibration": DATASET_QUEUE,
    "face_detection": IMAGE_QUEUE,
}
"""The queues of the kinds that run in their own process; the others run on inference workers."""
PICTURE_KINDS: frozenset[JobKind] = frozenset(
    {"filters", "heatmap", "activations", "style_transfer", "dream", "face_detection"}
)
"""Kinds whose amount of work a client with the scope `infer` chooses; see `picture_max_hours`."""
NAMED_KINDS: frozenset[JobKind] = frozenset({"dataset_import", "dataset_video"})
"""Kinds about a dataset, which their request names; the others name a model, or nothing."""
UNNAMED_KINDS: frozenset[JobKind] = frozenset({"enrollment", "calibration", "face_detection"})
"""Kinds that are about people; what they are about is not shown."""
MAX_NICENESS: Mapping[str, int] = {"enrollment": 5}
"""The maximum niceness of kinds that a client waits for; all others run as configured."""
KEPT_KINDS: frozenset[JobKind] = frozenset({"enrollment"})
"""Kinds whose process is kept for the next job for a while: loading takes longer than the work."""
LEASE_SECONDS = 60.0
"""How long a running job may go without a heartbeat before another worker takes it over."""

STARTING: str | None = "start"
"""The phase of a job whose process is being started."""

WAITING_FOR_MEMORY = "memory"
"""The phase of a job that waits until other jobs of its machine have ended."""

FINISHED: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})


class Progress(BaseModel):
    """The progress of a job."""

    fraction: float = Field(ge=0, le=1)
    phase: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    eta_seconds: float | None = None


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    detail: str


class Artifact(BaseModel):
    """A file of a job."""

    name: str
    media_type: str
    size: int
    url: str

    @field_serializer("url")
    def _public(self, url: str) -> str:
        return public_path(url)


class Job(BaseModel):
    """`queued → running → succeeded | failed | cancelled`."""

    id: str
    kind: JobKind
    state: JobState
    about: str | None = Field(
        None, description="The name of the model or dataset that it makes or uses, if there is one."
    )
    attempt: int = Field(
        description="0 before the first attempt, then 1; more after a worker was lost."
    )
    progress: Progress
    queue_position: int | None = Field(
        None, description="1 for the next job of its queue; only for jobs that wait for a process."
    )
    metrics: list[dict[str, Any]] = []
    result: dict[str, Any] | None = None
    error: JobError | None = None
    artifacts: list[Artifact] = []
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    scopes: tuple[Scope, ...] | None = Field(None, exclude=True)
    """All that a key needs to read or change it; None if a release before this one made it."""
