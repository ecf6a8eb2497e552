"""What a job of heatmaps is asked for, as it is kept with the job."""

from pydantic import BaseModel, ConfigDict

from contracts.inference.inference import Resize
from contracts.queue.explain_messages import MapAsk
from models.rendering.heatmap import Look


class HeatmapJob(BaseModel):
    """Pictures to explain; their files lie in the job's folder, see `input_name`."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    question: MapAsk
    classes: list[int]
    resize: Resize
    look: Look
    names: list[str | None]


def input_name(at: int) -> str:
    """The file of a picture, by its place in the request."""
    return f"image-{at:03d}"
