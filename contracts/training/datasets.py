"""A dataset as clients see it, and the file in its folder that says what it holds."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DATASET_ID = r"^ds_[A-Za-z0-9_-]{1,60}$"
MOST_LISTED_REJECTED = 100
MOST_NAME = 100

SplitName = Literal["train", "validation", "test"]
FileStatus = Literal["admitted", "rejected"]


class DatasetWarning(BaseModel):
    """Something that does not stop a training and may spoil it."""

    code: str
    detail: str


class RejectedFile(BaseModel):
    """A file that was sent and is not part of the dataset."""

    path: str
    code: str
    detail: str
    action: str = Field("left out", description="What was done about it.")


class DatasetFile(BaseModel):
    """One file that was sent, and what became of it."""

    model_config = ConfigDict(frozen=True)

    id: str
    path: str = Field(description="As in the archive or folder, or as it was named when added.")
    status: FileStatus
    label: str | None = Field(None, description="Its class; null where it has none.")
    split: SplitName | None = None
    given_split: SplitName | None = Field(None, description="The split that the sender chose.")
    sha256: str | None = Field(None, description="Of the file, hex; null where it was not read.")
    size: int = Field(0, description="Bytes.")
    width: int | None = Field(None, description="Pixels, upright.")
    height: int | None = None
    media_type: str | None = Field(None, description="What the bytes really are.")
    code: str | None = Field(None, description="Why it was left out, or what is odd about it.")
    detail: str | None = None
    action: str | None = Field(None, description="What was done about it.")


class DatasetInfo(BaseModel):
    """A dataset, counted."""

    id: str
    name: str
    digest: str = Field(description="Equal for equal labels, splits and pictures.")
    revision: int = Field(1, description="Grows whenever pictures are added.")
    classes: dict[str, int] = Field(description="Admitted pictures of each class.")
    splits: dict[SplitName, int] = Field(description="Admitted pictures of each split.")
    trainable: bool
    reason: str | None = Field(None, description="Why it is not trainable.")
    warnings: list[DatasetWarning]
    rejected: list[RejectedFile] = Field(
        description=f"The first {MOST_LISTED_REJECTED}; `files?status=rejected` lists all."
    )
    rejected_count: int = Field(0, description="All files that were left out.")
    size: int = Field(0, description="Bytes of all admitted pictures.")
    seed: int = 0
    created_at: datetime


class NewDataset(BaseModel):
    """An empty dataset."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=MOST_NAME, description="What to call it.")


class Listing(BaseModel):
    """`listing.json`: what makes a dataset, beside its pictures; the truth of a training."""

    info: DatasetInfo
    validation: float = Field(ge=0, le=0.9)
    test: float = Field(ge=0, le=0.9)
    files: list[DatasetFile]
