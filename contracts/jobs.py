"""A long task, seen from outside: one resource with one life."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

JobKind = Literal["classify", "embed"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
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
    metrics: list[dict[str, Any]] = []
    result: dict[str, Any] | None = None
    error: JobError | None = None
    artifacts: list[Artifact] = []
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
