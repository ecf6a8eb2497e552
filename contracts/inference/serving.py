"""How far a version that a job has promoted is with answering requests."""

from pydantic import BaseModel, Field


class Serving(BaseModel):
    """On how many workers a promoted version answers at the end of its job."""

    workers: int = Field(ge=0, description="Inference workers that load the model.")
    ready: int = Field(ge=0, description="How many of them answer with the version.")
    seconds: float = Field(ge=0, description="How long the job waited for them.")
    reason: str | None = Field(
        None,
        description="Why it does not answer on all of them; null if it does. Workers that start "
        "or recover later load it without a new job.",
    )
