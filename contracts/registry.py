"""What the service tells of its models, its workers and itself."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, WithJsonSchema, computed_field

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


class VersionError(BaseModel):
    """TensorFlow Serving's word on whether something went wrong."""

    error_code: Literal["OK", "UNAVAILABLE"] = "OK"
    error_message: str = ""


class VersionStatus(BaseModel):
    """One version as TensorFlow Serving tells of it."""

    version: str
    state: Literal["AVAILABLE", "LOADING", "END"]
    status: VersionError = VersionError()


class ModelDetail(ModelInfo):
    """A model as `/v1/models/{name}` shows it."""

    # Pydantic needs the property below the decorator, and mypy knows no decorated property.
    @computed_field  # type: ignore[prop-decorator]
    @property
    def model_version_status(self) -> list[VersionStatus]:
        """The state of each version, as TensorFlow Serving tells it."""
        state: Literal["AVAILABLE", "LOADING", "END"] = (
            "AVAILABLE" if self.operations else "LOADING" if self.state == "loading" else "END"
        )
        error = VersionError()
        if state == "END":
            error = VersionError(error_code="UNAVAILABLE", error_message=self.reason or "")
        return [
            VersionStatus(version=str(version), state=state, status=error)
            for version in self.versions
        ]


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
