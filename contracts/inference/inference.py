"""The responses of classification and embedding, and the names of all operations."""

from typing import Literal

from pydantic import BaseModel, Field

VectorOperation = Literal["classify", "embed"]
"""Operations whose output is one vector per image."""
Operation = Literal["classify", "embed", "heatmap", "faces", "explain", "clip", "study"]
"""Operations with a queue of their own, fastest first: a worker lets faster ones run between two
steps of a slower one. `heatmap` comes from the SavedModel, `faces` finds, measures and embeds faces
(`contracts.faces.faces`), `explain` is one pass of the Keras model, `clip` judges a video
(`contracts.faces.clips`), and `study` runs the Keras model many times for one image."""
Resize = Literal["crop", "squash"]


class Prediction(BaseModel):
    """One class and its probability."""

    index: int = Field(ge=0, description="Index in the network's output.", examples=[281])
    id: str = Field(description="The class's id; for ImageNet, its synset.")
    label: str = Field(description="The class's name.", examples=["tabby"])
    probability: float = Field(ge=0, le=1)


class ItemError(BaseModel):
    """Why one image of several has no result."""

    code: str
    detail: str


class ItemResult(BaseModel):
    """The result of one image: predictions, an embedding or an error."""

    name: str | None = Field(None, description="The file name, if the client sent one.")
    width: int | None = Field(None, description="Width in pixels, after EXIF orientation.")
    height: int | None = Field(None, description="Height in pixels, after EXIF orientation.")
    predictions: list[Prediction] | None = None
    embedding: list[float] | None = None
    error: ItemError | None = None


class Timing(BaseModel):
    """Milliseconds spent in each stage; for several images, the slowest image of each stage."""

    decode: float
    queue: float
    compute: float
    total: float


class ModelAnswer(BaseModel):
    """What one of several models answered, or why it did not."""

    model: str
    version: int | None = Field(None, description="Absent if none could be chosen.")
    batch_size: int | None = Field(None, description="As that of the response.")
    results: list[ItemResult] | None = Field(None, description="One for each image.")
    error: ItemError | None = Field(None, description="Why the model has no results.")


class InferenceResponse(BaseModel):
    """The response to a classification or an embedding of one image or several."""

    model: str
    version: int
    batch_size: int = Field(description="How many images ran through the network together.")
    results: list[ItemResult]
    timing_ms: Timing
    models: list[ModelAnswer] | None = Field(
        None,
        description="If several models were asked: the answer of each, in their order. The other "
        "fields are those of the first one that has results.",
    )
