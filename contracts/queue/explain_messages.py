"""What is asked of a picture beside its pixels, and what the numbers that come back mean.

These travel as JSON in the `note` of an item and of its reply, where the lane alone does not say
it all. Pictures with the same note may run together, whatever their classes.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contracts.inference.explanation import FAST, Faithfulness, Method
from contracts.inference.inference import LaneOperation

Order = Literal["strongest", "index", "random"]

OWN_METHODS: frozenset[Method] = frozenset({"grad_cam", "hires_cam"})
"""Those that a SavedModel has endpoints for."""
PIXEL_METHODS: frozenset[Method] = frozenset({"smooth_grad", "integrated_gradients", "occlusion"})
"""Those that look at the picture itself and at no layer."""
SEEDED_METHODS: frozenset[Method] = frozenset({"smooth_grad"})
"""Those in which something is drawn by chance."""


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True)

    def pack(self) -> bytes:
        """The note as it travels."""
        return self.model_dump_json().encode()


class MapAsk(_Note):
    """Why would it be of its class?"""

    task: Literal["map"] = "map"
    method: Method
    layer: str | None = Field(None, description="None: the one that the version was made with.")
    metrics: bool = Field(False, description="Whether to measure how far the map is to be trusted.")
    seed: int = 0

    def plain(self, own_layer: str | None) -> Self:
        """The same question in the same words: pictures of one note run together, and are kept.

        Args:
            own_layer: The layer that the version was made with.
        """
        layer = None if self.layer == own_layer else self.layer
        seed = self.seed if self.method in SEEDED_METHODS else 0
        return self.model_copy(update={"layer": layer, "seed": seed})


class ActivationsAsk(_Note):
    """What do the channels of a layer see?"""

    task: Literal["activations"] = "activations"
    layer: str | None = None
    channels: int
    order: Order
    seed: int = 0


Ask = Annotated[MapAsk | ActivationsAsk, Field(discriminator="task")]
_ASK: TypeAdapter[Ask] = TypeAdapter(Ask)


def read_ask(note: bytes) -> MapAsk | ActivationsAsk:
    """The question in an item's note.

    Raises:
        ValueError: It is of another release.
    """
    return _ASK.validate_json(note)


def lane_of(ask: MapAsk, explain_layer: str) -> LaneOperation:
    """Where a question for a heatmap waits: as far to the front as its answer is quick.

    Args:
        ask: The question.
        explain_layer: The layer that the version's own endpoints explain.
    """
    if ask.metrics or ask.method not in FAST:
        return "study"
    own = ask.method in OWN_METHODS and ask.layer in {None, explain_layer}
    return "heatmap" if own else "explain"


class MapNote(_Note):
    """The vector is a grid, row by row."""

    shape: tuple[int, int]
    layer: str | None = Field(description="None for a method that looks at the pixels.")
    target: int
    probability: float
    metrics: Faithfulness | None = None


class ChannelNote(BaseModel):
    """One of a layer's channels."""

    model_config = ConfigDict(frozen=True)

    index: int
    smallest: float = Field(description="The lowest activation anywhere on the picture.")
    largest: float
    mean: float


class ActivationsNote(_Note):
    """The vector is maps, one channel after the other."""

    shape: tuple[int, int] = Field(description="(height, width) of one map.")
    layer: str
    total: int = Field(description="Channels of the layer.")
    channels: tuple[ChannelNote, ...]
