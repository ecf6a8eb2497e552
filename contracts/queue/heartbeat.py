"""What a worker tells of itself, once a second, so that the API knows who can do what."""

from typing import Literal

from pydantic import BaseModel, Field

from contracts.inference.inference import LaneOperation

ModelState = Literal["ready", "loading", "unavailable"]


class HeldModel(BaseModel):
    """One version of a model as one worker sees it."""

    name: str
    version: int | None = Field(None, description="Null while it is not known which to load.")
    state: ModelState
    reason: str | None = Field(None, description="Why it is not ready, and what helps.")
    operations: tuple[LaneOperation, ...] = ()
    aliases: tuple[str, ...] = Field(
        (),
        description="The aliases it answers for here: those that stand on it, and those whose own "
        "version this worker does not hold yet.",
    )
    classes: int | None = None
    runtime: str | None = Field(None, description="What runs it, e.g. openvino-bfloat16.")
    runtime_reason: str | None = Field(
        None, description="Why that is not what was asked for; null if it is."
    )
    batch_sizes: tuple[int, ...] = ()


class WorkerBeat(BaseModel):
    """A worker's sign of life. It expires in Redis when the worker stops sending it."""

    id: str
    host: str
    pid: int
    release: str = Field(description="The worker's version of Opsin.")
    devices: tuple[str, ...] = ()
    started_at: float = Field(description="Unix time in seconds.")
    beat_at: float = Field(description="Unix time in seconds.")
    models: tuple[HeldModel, ...] = ()
    traces: int = Field(
        0,
        description="Graphs traced so far for explanations it holds; more requests of the same "
        "kinds add none.",
    )
    queues: dict[str, int] = Field(
        {}, description="Of a job worker: how many jobs of each queue it runs at a time."
    )

    def held(self, model: str) -> "dict[int, HeldModel]":
        """The versions of a model that this worker answers with, by number."""
        return {
            one.version: one
            for one in self.models
            if one.name == model and one.version is not None and one.operations
        }


BEAT_SECONDS = 1.0
BEAT_EXPIRY_SECONDS = 4.0
