"""What the service tells of its models, its workers and itself."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from contracts.inference import Operation
from contracts.presence import ModelState, WorkerBeat

# In plain words: OpenAPI tools stumble over the `prefixItems` that a tuple would give.
_PAIR = WithJsonSchema(
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
)


class ModelInfo(BaseModel):
    """A model as `/v1/models` lists it."""

    name: str
    network: str
    state: ModelState
    reason: str | None = Field(None, description="Why it is not ready, and what helps.")
    aliases: dict[str, int]
    versions: list[int]
    classes: int | None
    input_size: Annotated[tuple[int, int], _PAIR] = Field(description="(height, width) in pixels.")
    operations: tuple[Operation, ...] = Field(description="What it can be asked for now.")
    licence: str


class LaneInfo(BaseModel):
    """One queue of images."""

    name: str
    depth: int = Field(description="Images that wait.")
    drain_rate: float | None = Field(description="Images a second, last seen; null if unknown.")


class SystemInfo(BaseModel):
    """The whole installation at a glance."""

    version: str
    started_at: float
    workers: list[WorkerBeat]
    devices: list[str]
    queues: list[LaneInfo]
    models: list[ModelInfo]


class Readiness(BaseModel):
    """Whether requests can be served, and if not, what is missing."""

    ready: bool
    redis: Literal["ok", "unreachable"]
    database: Literal["ok", "unreachable"]
    worker: Literal["ok", "none", "loading"]
    detail: str | None = None
