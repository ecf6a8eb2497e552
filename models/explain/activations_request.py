"""The request of an activations job, as it is stored with the job."""

from pydantic import BaseModel, ConfigDict

from contracts.inference.inference import Resize
from contracts.queue.explain_messages import ActivationsRequest
from models.rendering.colormaps import Colormap


class ActivationsJobRequest(BaseModel):
    """What the API asks a job worker to compute."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    question: ActivationsRequest
    colormap: Colormap
    resize: Resize | None = None
