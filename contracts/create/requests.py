"""The parameters of style transfers and dreams, as a form sends them and a job keeps them."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from contracts.bodies import Body
from contracts.inference.explanation import MODEL_NAME, Layer

MAX_STYLES = 4
SMALLEST_SIDE, LARGEST_SIDE = 32, 8192
SMALLEST_TILE = 64
CONTENT, STYLE, IMAGE = "content", "style", "image"
"""Names of the form fields that hold images."""
PREVIEW, RESULT = "preview.png", "result.png"
"""Artifacts of both kinds of jobs."""

CONTENT_FILE, IMAGE_FILE = "content.image", "dream.image"
"""Names of the images in a job's folder, besides those of `style_file`."""
STYLE_SIDE = 512
"""Pixels of the longer side of what `method=optimize` makes, unless the content is smaller."""
DREAM_SIDE = 1024
"""Pixels of the longer side of a dream, unless the image is smaller."""

SMALLEST_STEP, HALF_RANGE, _LEVELS = 0.1, 127.5, 255
"""Levels: the smallest step of a dream, half of the tutorials' range, and all."""

StyleMethod = Literal["optimize", "fast"]
Normalization = Literal["paper", "tutorial"]
Pooling = Literal["average", "max"]
Optimizer = Literal["lbfgs", "adam"]
Init = Literal["content", "noise", "style", "fast"]
Colors = Literal["none", "luminance", "histogram"]
StepUnit = Literal["levels", "range"]
StyleNetwork = Literal["vgg16", "vgg19", "squeezenet"]
MAX_SECONDS = 7 * 24 * 3600
"""Of `max_seconds`."""

_QUOTES, _BRACKETS = " \t\"'", " \t[]{}"
_NAME_AND_WEIGHT = re.compile(r"(.+)[:=]\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)$", re.DOTALL)
_YES, _NO = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


def _colors(value: Any) -> Any:
    """A yes or no, as other programs ask for it, is `luminance` or `none`."""
    text = str(value).strip().lower()
    return "luminance" if text in _YES else "none" if text in _NO else value


def _listed(value: Any) -> Any:
    """``0.7,0.3`` and ``["a", "b"]`` are lists, like the field sent twice."""
    values = [value] if isinstance(value, (str, int, float)) else value
    if not isinstance(values, (list, tuple)):
        return values
    parts: list[Any] = []
    for item in values:
        if isinstance(item, str):
            parts += [part.strip(_QUOTES) for part in item.strip(_BRACKETS).split(",")]
        else:
            parts.append(item)
    return parts


def _weighted(layers: Any) -> tuple[list[str], list[float] | None] | None:
    """The names and weights of ``a=1,b=0.5`` or of a JSON object; None if there are no weights.

    A layer without a weight among others has 1.
    """
    if isinstance(layers, dict):
        layers = [f"{name}={weight}" for name, weight in layers.items()]
    parts = _listed(layers)
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return None
    names, weights = [], []
    for part in parts:
        found = _NAME_AND_WEIGHT.match(part)
        names.append(_without_quote(found[1].rstrip()) if found else part)
        weights.append(float(found[2]) if found else 1.0)
    return (names, weights) if names != parts else None


def _without_quote(name: str) -> str:
    return name[:-1] if name.endswith(("'", '"')) else name


Names = Annotated[list[Layer], BeforeValidator(_listed), Field(min_length=1, max_length=16)]
Weights = Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], BeforeValidator(_listed)]


class _Options(Body):
    """What both kinds of jobs take."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    preview_every: int = Field(
        10, ge=1, le=1000, description="Iterations between two versions of `preview.png`."
    )
    max_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_SECONDS,
        description="End after this time with what there is by then. The default, and the "
        "most, is what `OPSIN_PICTURE_MAX_HOURS` leaves.",
    )
    seed: int = Field(0, ge=0, lt=2**31)


class StyleTransferRequest(_Options):
    """How to paint the content in the style. The defaults look good without any parameter."""

    method: StyleMethod = Field(
        "optimize",
        description="`optimize`: Gatys et al., minutes. `fast`: one pass of a trained network, "
        "seconds or less; needs the weights `style_fast`.",
    )
    size: int | None = Field(
        None,
        ge=SMALLEST_SIDE,
        le=LARGEST_SIDE,
        description="The longer side of the result in pixels. The default of `optimize` is 512, or "
        "the content's own size if that is less; that of `fast` is the content's own size.",
    )
    iterations: int = Field(
        120,
        ge=1,
        le=10_000,
        description="Evaluations of loss and gradient in all. With the pyramid, most of them are "
        "spent on the small sizes, where they cost little.",
    )
    content_weight: float = Field(1.0, ge=0, le=1e6)
    style_weight: float = Field(1.0, ge=0, le=1e6)
    tv_weight: float = Field(1.0, ge=0, le=1e6, description="Weight of the total variation.")
    style_weights: Weights | None = Field(
        None,
        min_length=1,
        max_length=MAX_STYLES,
        description="The share of each style. The default is equal shares.",
        examples=[[0.7, 0.3]],
    )
    style_scale: float = Field(
        1.0,
        ge=0.25,
        le=2,
        description="Size of the styles beside the result's; more gives broader strokes.",
    )
    preserve_colors: Annotated[Colors, BeforeValidator(_colors)] = Field(
        "none",
        description="Keep the content's colors. `luminance`: only its brightness is painted. "
        "`histogram`: the style first gets the content's colors. `true` means `luminance`.",
    )
    init: Init = Field("content", description="The image to begin with.")
    optimizer: Optimizer = Field("lbfgs", description="L-BFGS (SciPy) or Adam.")
    learning_rate: float = Field(5.0, gt=0, le=255, description="Of Adam, in levels of 0 to 255.")
    pyramid: bool = Field(
        True, description="Begin with a small image and double its area until it has the full size."
    )
    gram: Normalization = Field(
        "paper",
        description="Style loss: of the paper, 1/(4 N²) times the squared differences of Gram "
        "matrices over positions; of the tutorial, Gram matrices over height, width and channels.",
    )
    pooling: Pooling = Field("average", description="The paper prefers averages to maxima.")
    network: StyleNetwork | None = Field(
        None,
        description="The default is the first whose weights are here: VGG19, VGG16, SqueezeNet.",
    )
    content_layers: Names | None = Field(
        None, description="The default is the paper's. `conv4_2` means `block4_conv2`."
    )
    style_layers: Names | None = Field(
        None, description="The default is the paper's. `conv4_2` means `block4_conv2`."
    )
    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Of the style, for `fast`: 0 gives the content in its own style.",
    )


class DreamRequest(_Options):
    """What to exaggerate in an image, and how far."""

    model: Annotated[str, StringConstraints(pattern=MODEL_NAME)] | None = Field(
        None, description="The default is `vgg16` if there is one, otherwise the first model."
    )
    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = Field(
        None, description="A version number or an alias. The default is `champion`."
    )
    layers: Names | None = Field(
        None,
        description="The layers to excite; the default depends on the network. With weights: "
        "`block4_conv3=1,block5_conv1=0.5`, or a JSON object.",
        examples=[["block4_conv3", "block5_conv1"]],
    )
    layer_weights: Weights | None = Field(
        None, min_length=1, max_length=16, description="One for each layer. The default is 1."
    )
    class_index: int | None = Field(
        None, ge=0, le=1_000_000, description="A class to excite, besides the layers or instead."
    )
    class_weight: float = Field(
        1.0, ge=0, le=1e6, description="Weight of the class beside that of the layers."
    )
    size: int | None = Field(
        None,
        ge=SMALLEST_SIDE,
        le=LARGEST_SIDE,
        description="The longer side of the result in pixels. The default is the image's own size, "
        "at most 1024.",
    )
    octaves: int = Field(4, ge=1, le=12, description="Number of sizes; the last is the full one.")
    octave_scale: float = Field(1.4, ge=1.05, le=4, description="Factor between two octaves.")
    iterations: int = Field(10, ge=1, le=1000, description="Steps in each octave.")
    step_size: float = Field(
        2.0, gt=0, le=100, description="Mean change of the pixels in a step, in `step_unit`."
    )
    step_unit: StepUnit | None = Field(
        None,
        description="`levels` of 0 to 255, or `range` for the tutorials' unit, a part of the range "
        "from -1 to 1: 0.01 is 1.3 levels. The default is `levels`, but a `step_size` below 0.1, "
        "which would change nothing, counts as `range`, and the result's `warnings` say so.",
    )
    smoothing: float | None = Field(
        None,
        ge=0,
        le=16,
        description="Width in pixels of the filter that smooths each step; 0 is none. The default "
        "depends on the network: some see dots where others see shapes.",
    )
    jitter: int = Field(32, ge=0, le=512, description="Largest shift of the image in pixels.")
    tile_size: int = Field(
        384,
        ge=SMALLEST_TILE,
        le=1024,
        description="Gradients are computed in tiles of this side at most, which bounds memory.",
    )

    @model_validator(mode="before")
    @classmethod
    def _split_weights(cls, values: Any) -> Any:
        """Layers that come with weights are two lists from here on."""
        if isinstance(values, dict) and values.get("layer_weights") is None:
            found = _weighted(values.get("layers"))
            if found is not None:
                return {**values, "layers": found[0], "layer_weights": found[1]}
        return values

    @model_validator(mode="after")
    def _check_step(self) -> Self:
        if self.step_levels > _LEVELS:
            raise ValueError(
                f"step_size: {self.step_size:g} in the unit `range` is more than the whole range; "
                "send 2 or less, or step_unit=levels."
            )
        return self

    @property
    def step_levels(self) -> float:
        """The mean change of a step in levels, from either unit."""
        return self.step_size * (HALF_RANGE if self._is_range else 1)

    @property
    def warnings(self) -> list[str]:
        """What was understood otherwise than it may have been meant."""
        if self.step_unit is not None or not self._is_range:
            return []
        return [
            f"step_size: {self.step_size:g} was taken as a part of the range from -1 to 1, which "
            f"is {self.step_levels:.3g} levels of 0 to 255. Send step_unit=range or "
            "step_unit=levels to say which you mean."
        ]

    @property
    def _is_range(self) -> bool:
        if self.step_unit is None:
            return self.step_size < SMALLEST_STEP
        return self.step_unit == "range"


def style_file(index: int) -> str:
    """The name of a style's image in a job's folder, by its number from 0."""
    return f"style-{index}.image"
