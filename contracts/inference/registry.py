"""What the service reports about its models, its workers and itself, and changes to models."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from contracts.bodies import Body
from contracts.inference.explanation import Sanity
from contracts.inference.inference import Operation
from contracts.inference.manifest import ALIAS_NAME, Manifest
from contracts.queue.heartbeat import ModelState, WorkerBeat

# Some OpenAPI tools do not support the `prefixItems` that a tuple would produce.
_PAIR = WithJsonSchema(
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
)


class ModelInfo(BaseModel):
    """A model in the list of `/v1/models`."""

    name: str
    network: str = Field(description="Its architecture.")
    state: ModelState
    reason: str | None = Field(None, description="Why it is not ready, and what to do about it.")
    aliases: dict[str, int] = Field(description="The version that each alias points to.")
    versions: list[int] = Field(description="All versions in the store.")
    classes: int | None
    input_size: Annotated[tuple[int, int], _PAIR] | None = Field(
        description="(height, width) of the champion in pixels; null before the first version."
    )
    features: int | None = Field(None, description="Length of an embedding.")
    operations: tuple[Operation, ...] = Field(description="The operations that it supports now.")
    runtime: str | None = Field(
        None,
        description="Runtime of the champion, e.g. openvino-bfloat16; null if it is not loaded.",
    )
    runtime_reason: str | None = Field(
        None, description="Why that is not the requested runtime; null if it is."
    )
    sanity: Sanity | None = Field(
        None,
        description="Whether the champion's heatmaps depend on its weights, if that was checked.",
    )
    licence: str | None = Field(description="Of the weights it was made from, if known.")


class AliasRequest(Body):
    """Which version an alias should point to."""

    alias: str = Field(
        description="A request that names no version uses `champion`.",
        pattern=ALIAS_NAME,
        examples=["champion"],
    )
    version: int = Field(ge=1, le=999_999_999, description="A version in the store.", examples=[2])


class VersionError(BaseModel):
    """The error of a version, in TensorFlow Serving's format."""

    error_code: Literal["OK", "UNAVAILABLE"] = "OK"
    error_message: str = ""


class VersionStatus(BaseModel):
    """The state of one version, in TensorFlow Serving's format."""

    version: str
    state: Literal["AVAILABLE", "LOADING", "END"]
    status: VersionError = VersionError()


class ModelStatus(BaseModel):
    """The state of versions, in TensorFlow Serving's format."""

    model_version_status: list[VersionStatus] = Field(
        description="The state of each version, in TensorFlow Serving's format."
    )


class ModelDetail(ModelInfo, ModelStatus):
    """A model in the response of `/v1/models/{name}`."""

    ready: bool = Field(description="As clients of KServe's first protocol read it.")


class VersionDetail(Manifest, ModelStatus):
    """A version in the response of `/v1/models/{name}/versions/{version}`."""


class LaneInfo(BaseModel):
    """One queue of images."""

    name: str
    depth: int = Field(description="Waiting images.")
    drain_rate: float | None = Field(
        description="Images per second, last measured; null if unknown."
    )


class JobQueueInfo(BaseModel):
    """One queue of long jobs."""

    name: str
    queued: int = Field(description="Waiting jobs.")
    running: int = Field(description="Running jobs.")


class SystemInfo(BaseModel):
    """The whole installation at a glance."""

    version: str
    started_at: float
    workers: list[WorkerBeat]
    devices: list[str]
    queues: list[LaneInfo]
    job_workers: list[WorkerBeat] = []
    job_queues: list[JobQueueInfo] | None = Field(
        None, description="Null while the database does not respond."
    )
    models: list[ModelInfo]


class Readiness(BaseModel):
    """Whether requests can be served; otherwise, what is missing."""

    ready: bool
    redis: Literal["ok", "unreachable"]
    database: Literal["ok", "unreachable"]
    worker: Literal["ok", "none", "loading"]
    loading: list[str] = Field(
        [], description="Published networks that are still being imported or loaded."
    )
    detail: str | None = None
    warnings: list[str] = Field(
        [], description="What does not keep it from serving and should be put right."
    )


class QuantizeBody(Body):
    """The body of `POST /v1/models/{name}/versions/{version}/quantize`."""

    dataset_id: str = Field(
        description="Its training images calibrate; its test images, otherwise its validation "
        "images, measure the accuracy. Classes are matched with the model's labels by name or id.",
        max_length=64,
        examples=["ds_7f3a9c"],
    )
    max_accuracy_loss: float = Field(
        0.01,
        ge=0,
        le=1,
        description="By how much the accuracy may fall, as a fraction of the measured images.",
        examples=[0.01],
    )
    promote: bool = Field(
        True,
        description="Promote it to champion if it loses no more than that. For a published "
        "network, the key needs the scope `models`.",
    )
