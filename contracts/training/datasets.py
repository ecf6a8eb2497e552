"""Schemas of datasets: what clients see, and the listing in a dataset's folder."""

import re
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.bodies import Body

DATASET_ID = r"^ds_[A-Za-z0-9_-]{1,60}$"
MAX_LISTED_REJECTED = 100
MAX_NAME_LENGTH = 100
REGION = r"^(whole|face|\d{1,5},\d{1,5},[1-9]\d{0,4},[1-9]\d{0,4})$"
"""A part of a video's frames: all, the face, or left, top, width and height in pixels."""

_FRAME = re.compile(r"(.+)-(\d{5})((?:-\d+)?\.jpg)", re.ASCII | re.DOTALL)

SplitName = Literal["train", "validation", "test"]
FileStatus = Literal["admitted", "rejected"]
LabelSource = Literal["folders", "file_names"]


def frame_name(video: str, number: int) -> str:
    """The file name of a frame of a video."""
    return f"{video}-{number:05d}.jpg"


def frame_of(path: str) -> tuple[str, int] | None:
    """The video and the number of a frame, by its `frame_name`; None if it has another name."""
    found = _FRAME.fullmatch(path)
    return (found[1] + found[3], int(found[2])) if found else None


class DatasetWarning(BaseModel):
    """A problem that does not prevent a training but may make it worse."""

    code: str
    detail: str


class RejectedFile(BaseModel):
    """An uploaded file that is not part of the dataset."""

    path: str
    code: str
    detail: str
    action: str = Field("left out", description="What was done with the file.")


class DatasetFile(BaseModel):
    """One uploaded file and its status."""

    model_config = ConfigDict(frozen=True)

    id: str
    path: str = Field(
        description="Path in the archive or folder, or the name given when it was added."
    )
    status: FileStatus
    label: str | None = Field(None, description="Its class; null if it has none.")
    split: SplitName | None = None
    given_split: SplitName | None = Field(None, description="The split chosen by the client.")
    sha256: str | None = Field(
        None, description="SHA-256 of the file, hex; null if it was not read."
    )
    size: int = Field(0, description="Bytes.")
    width: int | None = Field(None, description="Pixels, after turning the image upright.")
    height: int | None = None
    media_type: str | None = Field(None, description="The media type detected from the content.")
    code: str | None = Field(None, description="Why it was left out, or what is unusual about it.")
    detail: str | None = None
    action: str | None = Field(None, description="What was done with the file.")

    @property
    def frame(self) -> tuple[str, int] | None:
        """See `frame_of`."""
        return frame_of(self.path)


class DatasetInfo(BaseModel):
    """A dataset and its numbers."""

    id: str
    name: str
    digest: str = Field(description="Equal for datasets with the same labels, splits and images.")
    revision: int = Field(1, description="Increases whenever images are added.")
    classes: dict[str, int] = Field(description="Admitted images of each class.")
    splits: dict[SplitName, int] = Field(description="Admitted images of each split.")
    trainable: bool
    reason: str | None = Field(None, description="Why the dataset is not trainable.")
    warnings: list[DatasetWarning]
    rejected: list[RejectedFile] = Field(
        description=f"The first {MAX_LISTED_REJECTED}; `files?status=rejected` lists all of them."
    )
    rejected_count: int = Field(0, description="Number of files that were left out.")
    size: int = Field(0, description="Bytes of all admitted images.")
    seed: int = 0
    created_at: datetime


class NewDataset(Body):
    """An empty dataset to create."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH, description="Name of the dataset.")


VIDEO = "video"
"""The form field and the input file of the job that takes images from a video."""
MAX_FRAMES = 1000


class VideoFrames(BaseModel):
    """The request of a job that takes images from a video.

    The dataset is not called `dataset_id`: it may be changed until the images are added.
    """

    target: str = Field(pattern=DATASET_ID)
    label: str
    split: SplitName | None = None
    rate: float = Field(2.0, gt=0, le=30)
    max_frames: int = Field(100, ge=1, le=MAX_FRAMES)
    region: str = Field("whole", pattern=REGION)
    name: str = "video"


class LastAnswer(BaseModel):
    """The response to the request that made a listing, for the request's `Idempotency-Key`.

    The database keeps it too. It is here in case the process dies before it is written there.
    """

    key: str
    scope: str
    digest: str = Field(description="SHA-256 of the request, hex.")
    at: datetime
    body: str = Field(description="JSON.")


class Listing(BaseModel):
    """`listing.json` in the folder of a dataset: everything except the images.

    `files` must stay the last field, see `models.datasets.listed_files`.
    """

    info: DatasetInfo
    validation: float = Field(ge=0, le=0.9)
    test: float = Field(ge=0, le=0.9)
    answer: LastAnswer | None = None
    files: list[DatasetFile]
