"""The request of a face detection job, as it is stored with the job."""

from pydantic import BaseModel, ConfigDict

IMAGE = "image"
"""The file in the job's folder: the image as it was sent."""


class DetectionJobRequest(BaseModel):
    """What the API asks a job worker to detect."""

    model_config = ConfigDict(frozen=True)

    limit: int
