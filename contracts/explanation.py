"""What can be asked about the reasons of a network: the methods' names and what a layer shows."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

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
"""Those that cost one pass forward and one back; the others run the network many times."""


class LayerInfo(BaseModel):
    """One layer of a network, as it can be asked for."""

    model_config = ConfigDict(frozen=True)

    name: str
    type: str = Field(description="Its class in Keras.")
    output_shape: list[int | None] = Field(description="Without the batch: null where it varies.")
    explainable: bool = Field(description="Whether its output is maps: (height, width, channels).")


class Faithfulness(BaseModel):
    """How far a map is to be believed (Petsiuk et al., 2018, arXiv:1806.07421)."""

    model_config = ConfigDict(frozen=True)

    deletion_auc: float = Field(ge=0, le=1, description="Lower is better.")
    insertion_auc: float = Field(ge=0, le=1, description="Higher is better.")


class Sanity(BaseModel):
    """Whether a version's maps follow its weights (Adebayo et al., 2018, arXiv:1810.03292)."""

    model_config = ConfigDict(frozen=True)

    method: Method
    layer: str
    pictures: int = Field(ge=1)
    rank_correlation: dict[str, float] = Field(
        description="Spearman's, between the map before and after every layer from the output "
        "down to this one was given random weights. Near 0 is good."
    )
    passed: bool = Field(description="Whether the last of them, all random, is near 0.")
