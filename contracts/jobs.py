"""A long task, seen from outside: one resource with one life.

How long a running job may go without a sign of life before another worker takes it over.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from contracts.queue.redis_keys import FACE_QUEUE, PICTURE_QUEUE, TRAINING_QUEUE

JobKind = Literal[
    "classify",
    "embed",
    "training",
    "dataset_import",
    "filters",
    "heatmap",
    "quantize",
    "style_transfer",
    "dream",
    "enrollment",
    "calibration",
]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
WORK_QUEUES: dict[JobKind, str] = {
    "training": TRAINING_QUEUE,
    "quantize": TRAINING_QUEUE,
    "dataset_import": PICTURE_QUEUE,
    "filters": PICTURE_QUEUE,
    "heatmap": PICTURE_QUEUE,
    "style_transfer": PICTURE_QUEUE,
    "dream": PICTURE_QUEUE,
    "enrollment": FACE_QUEUE,
    "calibration": PICTURE_QUEUE,
}
"""Where the kinds wait that run in a process of their own; the others run beside the lanes."""
MOST_NICENESS: Mapping[str, int] = {"enrollment": 5}
"""How far a kind stands back at most, where somebody waits for it; all others as configured."""

FINISHED: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})


class Progress(BaseModel):
    """How far a job is."""

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
    """A file that a job made."""

    name: str
    media_type: str
    size: int
    url: str


class Job(BaseModel):
    """`queued → running → succeeded | failed | cancelled`."""

    id: str
    kind: JobKind
    state: JobState
    attempt: int = Field(description="0 while queued, then 1; more after a worker was lost.")
    progress: Progress
    queue_position: int | None = Field(
        None, description="1 for the next of its queue; only of work that waits for a process."
    )
    metrics: list[dict[str, Any]] = []
    result: dict[str, Any] | None = None
    error: JobError | None = None
    artifacts: list[Artifact] = []
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


LEASE_SECONDS = 60.0
