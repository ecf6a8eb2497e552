"""Responses of `/v1/heatmap`, `/v1/activations` and `/v1/models/{name}/layers`."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, Field

from contracts.inference.explanation import Faithfulness, LayerInfo, Method
from contracts.inference.inference import ItemError, Timing


class Target(BaseModel):
    """The class that a heatmap explains."""

    index: int = Field(description="Position in the network's output.", examples=[340])
    id: str
    label: str = Field(examples=["zebra"])
    probability: float = Field(ge=0, le=1)
    space: Literal["logit"] = Field(
        "logit", description="What is differentiated: a saturated softmax has no gradient."
    )


class Grid(BaseModel):
    """A coarse grid over the part of the image that the network saw, row by row."""

    shape: list[int] = Field(description="Rows and columns.", examples=[[14, 14]])
    values: list[list[float]] = Field(description="In 0 to 1, never NaN.")


class Region(BaseModel):
    """A part of an image, in pixels of the upright image."""

    x: float
    y: float
    width: float
    height: float


class Heatmap(BaseModel):
    """Why one image would be of one class."""

    target: Target | None = None
    grid: Grid | None = None
    empty: bool | None = Field(None, description="Whether nothing speaks for the class.")
    metrics: Faithfulness | None = None
    cached: bool | None = Field(None, description="Whether it was computed for an earlier request.")


class HeatmapResult(Heatmap):
    """One image's heatmap, or several as `maps`, or an error."""

    name: str | None = Field(None, description="The file name that was sent, if one was.")
    width: int | None = Field(None, description="Width in pixels, after EXIF orientation.")
    height: int | None = None
    region: Region | None = Field(None, description="The part of the image that the grid covers.")
    maps: list[Heatmap] | None = Field(None, description="If several classes were requested.")
    error: ItemError | None = None


class HeatmapResponse(HeatmapResult):
    """The response: the fields of one image, or `results` with several."""

    model: str
    version: int
    method: Method
    layer: str | None = Field(None, description="Absent if the method uses the pixels.")
    results: list[HeatmapResult] | None = None
    timing_ms: Timing


class Channel(BaseModel):
    """One channel of a layer."""

    index: int
    blank: bool = Field(description="Whether it is constant.")
    smallest: float
    largest: float
    mean: float
    values: list[list[float]] = Field(description="Its feature map, row by row.")


class ActivationsResponse(BaseModel):
    """Feature maps of a layer, in the requested order."""

    model: str
    version: int
    layer: str
    channels: int = Field(description="The number of channels of the layer.")
    shape: list[int] = Field(description="Rows and columns of a map.")
    maps: list[Channel]
    timing_ms: Timing


class LayerTotals(BaseModel):
    """Numbers of weights of a whole network."""

    layers: int
    parameters: int | None = Field(description="Null for versions of earlier releases.")
    trainable_parameters: int | None

    @classmethod
    def of(cls, layers: Sequence[LayerInfo]) -> Self:
        """The sums over all layers."""
        counts = [layer.parameters for layer in layers]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            return cls(layers=len(layers), parameters=None, trainable_parameters=None)
        trainable = sum(layer.parameters or 0 for layer in layers if layer.trainable)
        return cls(layers=len(layers), parameters=sum(known), trainable_parameters=trainable)


class LayersResponse(BaseModel):
    """The layers of a version, in the order of the forward pass."""

    model: str
    version: int
    items: list[LayerInfo]
    totals: LayerTotals
