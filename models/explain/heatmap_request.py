"""The request of a heatmap job, as it is stored with the job."""

from pydantic import BaseModel, ConfigDict

from contracts.inference.inference import Resize
from contracts.queue.explain_messages import ExplainRequest
from models.rendering.heatmap import RenderOptions


class HeatmapJobRequest(BaseModel):
    """Images to explain; their files lie in the job's folder, see `input_file_name`."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    question: ExplainRequest
    classes: list[int]
    resize: Resize
    look: RenderOptions
    names: list[str | None]


def input_file_name(index: int) -> str:
    """The file of an image, by its position in the request."""
    return f"image-{index:03d}"
