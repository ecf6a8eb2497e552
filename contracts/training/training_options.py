"""Schemas of the parts of a training request: head, epochs, learning rates, augmentation."""

import math
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from contracts.bodies import Body, at_most
from contracts.inference.manifest import ALIAS_NAME, ModelName

_MAX_DENSE = 4
_MAX_STEPS = 20

FillMode = Literal["nearest", "reflect", "wrap", "constant"]
Rate = Annotated[float, Field(ge=0, lt=1)]
BrightnessFactor = Annotated[float, Field(ge=0, le=10)]
ZoomFactor = Annotated[float, Field(gt=0, le=10)]
VersionNumber = Annotated[int, Field(ge=1, le=999_999_999)]
VersionAlias = Annotated[str, Field(pattern=ALIAS_NAME)]


class Part(Body):
    """A part of a training request."""

    model_config = ConfigDict(frozen=True)


class VersionRef(Part):
    """A version in the store."""

    model: ModelName
    version: VersionNumber | VersionAlias = Field(description="Its number, or an alias.")


VersionChoice = VersionNumber | VersionAlias | VersionRef
"""A version; of the trained model, unless it names another one."""


class Head(Part):
    """The classifier on top: pooling, dense layers, dropout and the output layer."""

    pooling: Literal["average", "max", "flatten"] = Field(
        "average",
        description="How the last feature maps become a vector; flatten preserves positions.",
    )
    units: Annotated[tuple[Annotated[int, Field(ge=1, le=8192)], ...], at_most(_MAX_DENSE)] = Field(
        (256,),
        max_length=_MAX_DENSE,
        description="Units of the dense layers before the output layer; may be [].",
    )
    dropout: Annotated[float | tuple[Rate, ...], at_most(_MAX_DENSE)] = Field(
        0.3,
        description="Dropout rate (0 to below 1) after each dense layer, or a list with one rate "
        "for each.",
    )
    output: Literal["softmax", "sigmoid", "independent"] = Field(
        "softmax",
        description="sigmoid: one unit for two classes, the probability of the second one. "
        "independent: a sigmoid for each class, trained with binary cross-entropy; the "
        "probabilities of an image then need not add up to 1.",
    )

    @model_validator(mode="after")
    def _has_valid_dropout(self) -> Self:
        if isinstance(self.dropout, tuple):
            if len(self.dropout) != len(self.units):
                raise ValueError("a list of dropout needs one rate for each of units")
        elif not 0 <= self.dropout < 1:
            raise ValueError("dropout must be at least 0 and below 1")
        return self

    @property
    def rates(self) -> tuple[float, ...]:
        """The dropout rate after each dense layer."""
        if isinstance(self.dropout, tuple):
            return self.dropout
        return (self.dropout,) * len(self.units)


class Epochs(Part):
    """Maximum number of epochs of each phase; early stopping may end it sooner."""

    head: int = Field(
        10,
        ge=0,
        le=1000,
        description="Training the new head on the frozen base. 0 with fine_tuning: head and upper "
        "layers are trained in one phase.",
    )
    finetune: int = Field(10, ge=1, le=1000, description="Training with the upper layers unfrozen.")
    scratch: int = Field(30, ge=1, le=1000, description="Training from scratch.")


class LearningRate(Part):
    """Initial learning rate of each phase."""

    head: float = Field(1e-3, gt=0, le=10)
    finetune: float = Field(1e-5, gt=0, le=10)
    scratch: float = Field(1e-3, gt=0, le=10)


class Augmentation(Part):
    """Random changes of training images; validation and test images are not changed."""

    rotation: float = Field(
        0, ge=0, le=180, description="Maximum angle in degrees, in either direction."
    )
    width_shift: float = Field(
        0, ge=0, lt=1, description="Maximum horizontal shift, as a share of the width."
    )
    height_shift: float = Field(
        0, ge=0, lt=1, description="Maximum vertical shift, as a share of the height."
    )
    shear: float = Field(
        0, ge=0, le=1, description="Maximum shear, as the tangent of its angle: 0.2 is 11°."
    )
    shear_degrees: float | None = Field(
        None, ge=0, le=45, description="Maximum shear as an angle, as in Keras. Replaces `shear`."
    )
    zoom: Annotated[float, Field(ge=0, lt=1)] | tuple[ZoomFactor, ZoomFactor] = Field(
        0,
        description="0.2 scales to between 0.8 and 1.2, both axes alike; [low, high] scales each "
        "axis by its own factor from that range, as in Keras, where 0.8 makes the image larger.",
    )
    horizontal_flip: bool = Field(False, description="Mirror half of the images.")
    vertical_flip: bool = Field(False, description="Turn half of the images upside down.")
    brightness: Annotated[float, Field(ge=0, lt=1)] | tuple[BrightnessFactor, BrightnessFactor] = (
        Field(
            0, description="0.2 multiplies by 0.8 to 1.2; [low, high] by a factor from that range."
        )
    )
    channel_shift: float = Field(
        0, ge=0, le=255, description="Maximum shift of each color channel, in levels of 0 to 255."
    )
    fill_mode: FillMode = Field(
        "nearest", description="How pixels outside the original image are filled."
    )
    cval: float = Field(
        0, ge=0, le=255, description="The level of those pixels with `fill_mode` constant."
    )

    @model_validator(mode="after")
    def _has_ordered_ranges(self) -> Self:
        for name, value in (("zoom", self.zoom), ("brightness", self.brightness)):
            if isinstance(value, tuple) and value[0] > value[1]:
                raise ValueError(f"{name}: send the lower factor first, e.g. [0.8, 1.2]")
        return self

    @property
    def active(self) -> bool:
        """Whether it changes any image."""
        ignored = {"fill_mode", "cval", "zoom", "brightness"}
        ranges = (self.zoom_range, self.brightness_range)
        return ranges != ((1.0, 1.0),) * 2 or any(
            value for name, value in self if name not in ignored
        )

    @property
    def zoom_range(self) -> tuple[float, float]:
        """Lowest and highest factor of the size of what is shown."""
        return self.zoom if isinstance(self.zoom, tuple) else (1 - self.zoom, 1 + self.zoom)

    @property
    def brightness_range(self) -> tuple[float, float]:
        """Lowest and highest factor of all pixels."""
        value = self.brightness
        return value if isinstance(value, tuple) else (1 - value, 1 + value)

    @property
    def shear_tangent(self) -> float:
        """The maximum shear as the tangent of its angle."""
        if self.shear_degrees is None:
            return self.shear
        return math.tan(math.radians(self.shear_degrees))


class StepSchedule(Part):
    """A learning rate that falls at fixed epochs."""

    at: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], at_most(_MAX_STEPS)] = Field(
        min_length=1,
        max_length=_MAX_STEPS,
        description="Completed epochs of the phase after which the rate falls.",
    )
    factor: float = Field(0.1, gt=0, lt=1, description="What the rate is multiplied by.")

    @model_validator(mode="after")
    def _has_ascending_epochs(self) -> Self:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError("at: send different epochs in ascending order")
        return self
