"""What the service tells of its models, its workers and itself."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from contracts.inference import Operation
from contracts.manifest import ALIAS_NAME
from contracts.presence import ModelState, WorkerBeat

# In plain words: OpenAPI tools stumble over the `prefixItems` that a tuple would give.
_PAIR = WithJsonSchema(
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
)


class ModelInfo(BaseModel):
    """A model as `/v1/models` lists it."""

    name: str
    network: str = Field(description="Its architecture.")
    state: ModelState
    reason: str | None = Field(None, description="Why it is not ready, and what helps.")
    aliases: dict[str, int] = Field(description="The version that each alias stands on.")
    versions: list[int] = Field(description="All that are in the store.")
    classes: int | None
    input_size: Annotated[tuple[int, int], _PAIR] | None = Field(
        description="(height, width) in pixels, of the champion; null before the first version."
    )
    operations: tuple[Operation, ...] = Field(description="What it can be asked for now.")
    licence: str | None = Field(description="Of the weights it began with, where known.")


class AliasRequest(BaseModel):
    """Which version an alias shall stand on."""

    model_config = ConfigDict(extra="forbid")

    alias: str = Field(
        description="`champion` is what a request means that names no version.",
        pattern=ALIAS_NAME,
        examples=["champion"],
    )
    version: int = Field(ge=1, le=999_999_999, description="One in the store.", examples=[2])


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
