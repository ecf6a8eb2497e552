"""Accepts a video for a dataset: reads the form and creates the job that takes its frames."""

import hashlib
import json
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import ValidationFailed
from contracts.jobs import Job
from contracts.training.datasets import MAX_FRAMES, REGION, VIDEO, SplitName, VideoFrames
from models.datasets.layout import MAX_LABEL_LENGTH
from models.weights.catalog import Weights
from service.auth.principal import quota_key
from service.datasets.upload import checked_label
from service.dependencies import Services
from service.http.deadlines import Deadline
from service.http.multipart import FieldSpec, read_form
from service.http.uploads import display_name
from service.threads import run_in_threadpool

_FACE_WEIGHTS = "face_finder"
_MAX_STEM = 60


class VideoQuery(BaseModel):
    """Which images to take from a video, and where they go."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field(
        min_length=1, max_length=MAX_LABEL_LENGTH, description="Their class.", examples=["ada"]
    )
    split: SplitName | None = Field(None, description="Their split; drawn at random if omitted.")
    rate: float = Field(2.0, gt=0, le=30, description="Images per second of the video.")
    max_frames: int = Field(100, ge=1, le=MAX_FRAMES, description="At most so many images.")
    region: str = Field(
        "whole",
        pattern=REGION,
        description=(
            "`whole` frames, the only `face` in each (frames without one are left out), or the "
            "part `x,y,width,height` in pixels of the video."
        ),
        examples=["face"],
    )


async def submit(
    request: Request,
    dataset_id: str,
    query: VideoQuery,
    *,
    key: str | None,
    deadline: Deadline,
    services: Services,
) -> Job:
    """Create the job that adds frames of the video in the request's form.

    Raises:
        OpsinError: As documented for the route. No job was created.
        ClientDisconnect: The client hung up.
    """
    label = checked_label(query.label)
    await run_in_threadpool(services.datasets.rows.require, dataset_id)
    if query.region == "face":
        # Known here already: the job could only fail.
        await run_in_threadpool(Weights.of(services.settings).find, _FACE_WEIGHTS)
    client = quota_key(request.scope)
    await services.job_queue.require_room_unread("dataset_video", key, client)
    with services.datasets.upload_slot(client):
        async with deadline.enforced():
            form = await read_form(request, {VIDEO: FieldSpec(services.settings.max_video_bytes)})
    if VIDEO not in form.parts:
        raise ValidationFailed(f"The form holds no video; send it as the field '{VIDEO}'.")
    part = form.parts[VIDEO][0]
    name = (display_name(part.filename) or VIDEO).rpartition(".")[0][:_MAX_STEM] or VIDEO
    frames = VideoFrames(
        target=dataset_id, name=name, **query.model_dump(exclude={"label"}), label=label
    )
    parameters = frames.model_dump(mode="json")
    idempotency = None
    if key is not None:
        idempotency = (key, await run_in_threadpool(_digest, parameters, part.data))
    return await services.job_queue.submit_work(
        "dataset_video",
        parameters,
        inputs={VIDEO: part.data},
        idempotency=idempotency,
        client=client,
    )


def _digest(parameters: dict[str, Any], video: bytes) -> str:
    """Equal for equal requests; takes a while for a long video."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    digest.update(video)
    return digest.hexdigest()
