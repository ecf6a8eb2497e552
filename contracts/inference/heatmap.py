"""What `/v1/heatmap`, `/v1/activations` and `/v1/models/{name}/layers` answer."""

from typing import Literal

from pydantic import BaseModel, Field

from contracts.inference.explanation import Faithfulness, LayerInfo, Method
from contracts.inference.inference import ItemError, Timing


class Target(BaseModel):
    """The class that a map explains."""

    index: int = Field(description="Position in the network's output.", examples=[340])
    id: str
    label: str = Field(examples=["zebra"])
    probability: float = Field(ge=0, le=1)
    space: Literal["logit"] = Field(
        "logit", description="What the gradients are taken of: a sure softmax has none."
    )


class Grid(BaseModel):
    """A coarse map over what the network saw, row by row."""

    shape: list[int] = Field(description="Rows and columns.", examples=[[14, 14]])
    values: list[list[float]] = Field(description="In 0 to 1, never NaN.")


class Region(BaseModel):
    """A part of a picture, in its pixels, upright."""

    x: float
    y: float
    width: float
    height: float


class Heatmap(BaseModel):
    """Why one picture would be of one class."""

    target: Target | None = None
    grid: Grid | None = None
    empty: bool | None = Field(None, description="Whether nothing speaks for the class.")
    metrics: Faithfulness | None = None
    cached: bool | None = Field(None, description="Whether it was made before.")


class HeatmapResult(Heatmap):
    """One picture's map, or one a class as `maps`, or an error."""

    name: str | None = Field(None, description="The file name that was sent, if one was.")
    width: int | None = Field(None, description="Width in pixels, after EXIF orientation.")
    height: int | None = None
    region: Region | None = Field(None, description="What the network saw, and the grid covers.")
    maps: list[Heatmap] | None = Field(None, description="Where several classes were asked for.")
    error: ItemError | None = None


class HeatmapResponse(HeatmapResult):
    """The answer: of one picture its own fields, of several one of the `results` each."""

    model: str
    version: int
    method: Method
    layer: str | None = Field(None, description="Missing where a method looks at the pixels.")
    results: list[HeatmapResult] | None = None
    timing_ms: Timing


class Channel(BaseModel):
    """What one channel of a layer sees."""

    index: int
    blank: bool = Field(description="Whether it is the same everywhere.")
    smallest: float
    largest: float
    mean: float
    values: list[list[float]] = Field(description="Its map, row by row.")


class ActivationsResponse(BaseModel):
    """Maps of a layer, in the order asked for."""

    model: str
    version: int
    layer: str
    channels: int = Field(description="That the layer has.")
    shape: list[int] = Field(description="Rows and columns of a map.")
    maps: list[Channel]
    timing_ms: Timing


class LayersResponse(BaseModel):
    """The layers of a version, input first."""

    model: str
    version: int
    items: list[LayerInfo]
