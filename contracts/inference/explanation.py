"""Explanation methods, layers, and requests for filter patterns."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts.bodies import Body

MODEL_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
LARGEST_PATTERN = 512
"""The largest side, in pixels, of the pattern that excites a filter."""

Layer = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A layer's name, as a client may write it."""

Method = Literal[
    "grad_cam",
    "hires_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "score_cam",
    "smooth_grad",
    "integrated_gradients",
    "occlusion",
]
METHODS: tuple[Method, ...] = get_args(Method)

FAST: frozenset[Method] = frozenset({"grad_cam", "hires_cam", "grad_cam_plus_plus", "layer_cam"})
"""Those that take one forward and one backward pass; the others run the network many times."""


class LayerInfo(BaseModel):
    """One layer of a network."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: str = Field(description="Its class in Keras.")
    output_shape: list[int | None] = Field(description="Without the batch; null if it varies.")
    explainable: bool = Field(description="Whether it has feature maps: (height, width, channels).")
    parameters: int | None = Field(
        None, description="Number of weights; null for versions of earlier releases."
    )
    trainable: bool | None = Field(
        None, description="Whether its weights were trained in the last phase, or are unfrozen."
    )


class Faithfulness(BaseModel):
    """How far a heatmap can be trusted (Petsiuk et al., 2018, arXiv:1806.07421)."""

    model_config = ConfigDict(frozen=True)

    deletion_auc: float = Field(ge=0, le=1, description="Lower is better.")
    insertion_auc: float = Field(ge=0, le=1, description="Higher is better.")


class Sanity(BaseModel):
    """Whether heatmaps depend on the weights (Adebayo et al., 2018, arXiv:1810.03292)."""

    model_config = ConfigDict(frozen=True)

    method: Method
    layer: str
    pictures: int = Field(ge=1)
    rank_correlation: dict[str, float] = Field(
        description="Spearman's rank correlation between the heatmaps before and after all layers "
        "from the output down to this one got random weights. Near 0 is good."
    )
    passed: bool = Field(description="Whether the last one, with all layers random, is near 0.")


class FiltersRequest(Body):
    """The filters whose patterns to compute, and how."""

    model_config = ConfigDict(frozen=True)

    model: Annotated[str, StringConstraints(pattern=MODEL_NAME)] | None = Field(
        None, description="The default is the first model that is ready."
    )
    version: (
        Annotated[int, Field(strict=True)]
        | Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
        | None
    ) = Field(None, description="A number or an alias. The default is `champion`.")
    layer: Layer | None = Field(None, description="The default is the layer of heatmaps.")
    filters: list[Annotated[int, Field(ge=0, strict=True)]] | None = Field(
        None, min_length=1, max_length=100, description="The default is the first 25."
    )
    steps: int = Field(50, ge=1, le=1000, description="Steps of the ascent, in each octave.")
    step_size: float = Field(0.9, gt=0, le=100, description="In levels of 0 to 255, on average.")
    image_size: int = Field(
        128,
        ge=16,
        le=LARGEST_PATTERN,
        description="Side of a pattern in pixels. A deep layer may need more than the minimum.",
    )
    octaves: int = Field(1, ge=1, le=8, description="Number of sizes; the last is the full one.")
    octave_scale: float = Field(1.4, ge=1.05, le=4, description="Factor between two octaves.")
    jitter: int = Field(0, ge=0, le=64, description="Largest shift of the image in pixels.")
    contrast: float = Field(
        0.15,
        gt=0,
        le=1,
        description="Standard deviation of a pattern as it is shown, where black is 0 and white 1.",
    )
    seed: int = Field(0, ge=0, lt=2**31)
