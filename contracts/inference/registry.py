"""What the service tells of its models, its workers and itself.

What a quantization may be asked for, and what it answers.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, computed_field

from contracts.inference.explanation import Sanity
from contracts.inference.inference import Operation
from contracts.inference.manifest import ALIAS_NAME
from contracts.queue.heartbeat import ModelState, WorkerBeat

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
    features: int | None = Field(None, description="Length of an embedding.")
    operations: tuple[Operation, ...] = Field(description="What it can be asked for now.")
    runtime: str | None = Field(
        None, description="What runs the champion, e.g. openvino-bfloat16; null while nothing does."
    )
    runtime_reason: str | None = Field(
        None, description="Why that is not what was asked for; null if it is."
    )
    sanity: Sanity | None = Field(
        None, description="Whether the champion's heatmaps follow its weights, where checked."
    )
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
        return [self._status(version) for version in self.versions]

    def _status(self, version: int) -> VersionStatus:
        if version not in self.aliases.values():
            unheld = VersionError(error_code="UNAVAILABLE", error_message="No alias stands on it.")
            return VersionStatus(version=str(version), state="END", status=unheld)
        if self.operations:
            return VersionStatus(version=str(version), state="AVAILABLE")
        if self.state == "loading":
            return VersionStatus(version=str(version), state="LOADING")
        failed = VersionError(error_code="UNAVAILABLE", error_message=self.reason or "")
        return VersionStatus(version=str(version), state="END", status=failed)


class LaneInfo(BaseModel):
    """One queue of images."""

    name: str
    depth: int = Field(description="Images that wait.")
    drain_rate: float | None = Field(description="Images a second, last seen; null if unknown.")


class JobQueueInfo(BaseModel):
    """One queue of long jobs."""

    name: str
    queued: int = Field(description="Jobs that wait.")
    running: int = Field(description="Jobs that run.")


class SystemInfo(BaseModel):
    """The whole installation at a glance."""

    version: str
    started_at: float
    workers: list[WorkerBeat]
    devices: list[str]
    queues: list[LaneInfo]
    job_workers: list[WorkerBeat] = []
    job_queues: list[JobQueueInfo] | None = Field(
        None, description="Null while the database does not answer."
    )
    models: list[ModelInfo]


class Readiness(BaseModel):
    """Whether requests can be served, and if not, what is missing."""

    ready: bool
    redis: Literal["ok", "unreachable"]
    database: Literal["ok", "unreachable"]
    worker: Literal["ok", "none", "loading"]
    detail: str | None = None


class QuantizeBody(BaseModel):
    """The body of `POST /v1/models/{name}/versions/{version}/quantize`."""

    model_config = ConfigDict(extra="forbid")

    dataset_id: str = Field(
        description="Its training pictures calibrate; its test pictures, or else those for "
        "validation, measure. Classes are matched with the model's labels by name or id.",
        max_length=64,
        examples=["ds_7f3a9c"],
    )
    max_accuracy_loss: float = Field(
        0.01,
        ge=0,
        le=1,
        description="How much less of the measured pictures it may get right, as a share.",
        examples=[0.01],
    )
    promote: bool = Field(
        True,
        description="Make it champion if it lost no more than that. In a published network, "
        "the key needs the scope `models` for it.",
    )
