"""What classification and embedding answer."""

from typing import Literal

from pydantic import BaseModel, Field

Operation = Literal["classify", "embed"]
"""What gives one vector a picture."""
LaneOperation = Literal["classify", "embed", "heatmap", "faces", "explain", "clip", "study"]
"""What has a lane of its own, in the order in which a worker gives way: `heatmap` is what the
SavedModel explains by itself, `faces` finds, measures and embeds them (`contracts.faces.faces`),
`explain` is what one pass of the Keras model tells, `clip` judges a video
(`contracts.faces.clips`), and `study` runs a Keras model many times for one picture."""
Resize = Literal["crop", "squash"]


class Prediction(BaseModel):
    """One class and how probable the network holds it."""

    index: int = Field(ge=0, description="Position in the network's output.", examples=[281])
    id: str = Field(description="The class's own id, for ImageNet its synset.")
    label: str = Field(description="The class's name.", examples=["tabby"])
    probability: float = Field(ge=0, le=1)


class ItemError(BaseModel):
    """Why one image of several has no result."""

    code: str
    detail: str


class ItemResult(BaseModel):
    """One image's result: predictions or an embedding, or else an error."""

    name: str | None = Field(None, description="The file name that was sent, if one was.")
    width: int | None = Field(None, description="Width in pixels, after EXIF orientation.")
    height: int | None = Field(None, description="Height in pixels, after EXIF orientation.")
    predictions: list[Prediction] | None = None
    embedding: list[float] | None = None
    error: ItemError | None = None


class Timing(BaseModel):
    """Milliseconds spent in each stage; of several images, the slowest of each stage."""

    decode: float
    queue: float
    compute: float
    total: float


class InferenceResponse(BaseModel):
    """The answer to a classification or an embedding of one image or several."""

    model: str
    version: int
    batch_size: int = Field(description="How many images ran through the network together.")
    results: list[ItemResult]
    timing_ms: Timing
