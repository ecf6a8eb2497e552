"""What `opsin classify` and `opsin explain` send, and who can answer them."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from contracts.inference.explanation import Method
from contracts.inference.inference import InferenceResponse, Resize, Timing


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The content of an image file."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """How images are classified.

    Attributes:
        model: None for the default one.
        top: How many classes.
        resize: How an image becomes the network's input; None for the model's own way.
    """

    model: str | None
    top: int
    resize: Resize | None


@dataclass(frozen=True, slots=True)
class OverlayOptions:
    """What an overlay explains and how it is drawn.

    Attributes:
        model: None for the default one.
        class_index: None for the most probable class.
        layer: The layer whose maps are weighted; None for the network's own choice.
        legend: Whether to add a title and a color bar.
        alpha: Opacity of the heatmap, 0 to 1.
        view: The heatmap over the image, or alone.
    """

    model: str | None
    method: Method
    class_index: int | None
    layer: str | None
    legend: bool
    alpha: float
    colormap: str
    view: Literal["overlay", "map"] = "overlay"


class InferenceClient(Protocol):
    """A running server, or a version loaded into this process."""

    def classify(self, images: list[ImageFile], options: ClassifyOptions) -> InferenceResponse:
        """The results in the order of the images; a bad image has an error as its result.

        Raises:
            CommandError: There is no answer at all.
        """

    def explain(self, image: bytes, options: OverlayOptions) -> bytes:
        """The heatmap as PNG.

        Raises:
            CommandError: There is none.
        """

    def explain_numbers(self, image: bytes, options: OverlayOptions) -> dict[str, Any]:
        """The heatmap as the API's JSON: model, version, layer, target and grid.

        Raises:
            CommandError: There is none.
        """


def empty_response(model: str) -> InferenceResponse:
    """The answer about no image."""
    timing = Timing(decode=0, queue=0, compute=0, total=0)
    return InferenceResponse(model=model, version=1, batch_size=0, results=[], timing_ms=timing)
