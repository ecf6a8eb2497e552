"""What an explanation is asked for, and what the numbers of its reply mean.

These travel as JSON in the `note` of an item and of its reply. Images whose notes are equal may
share a batch, whichever classes they ask about.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from contracts.inference.explanation import FAST, Faithfulness, Method
from contracts.inference.inference import Operation

Order = Literal["strongest", "index", "random"]

OWN_METHODS: frozenset[Method] = frozenset({"grad_cam", "hires_cam"})
"""Methods for which a SavedModel has endpoints."""
PIXEL_METHODS: frozenset[Method] = frozenset({"smooth_grad", "integrated_gradients", "occlusion"})
"""Methods that work on the image itself and on no layer."""
SEEDED_METHODS: frozenset[Method] = frozenset({"smooth_grad"})
"""Methods that draw random numbers."""


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True)

    def pack(self) -> bytes:
        """The note as it travels."""
        return self.model_dump_json().encode()


class ExplainRequest(_Note):
    """Asks for a heatmap of a class."""

    task: Literal["map"] = "map"
    method: Method
    layer: str | None = Field(None, description="None: the version's own explain layer.")
    metrics: bool = Field(False, description="Whether to measure how faithful the map is.")
    seed: int = 0

    def normalized(self, own_layer: str | None) -> Self:
        """The same request, written the same way each time, for batching and caching.

        Args:
            own_layer: The version's own explain layer.
        """
        layer = None if self.layer == own_layer else self.layer
        seed = self.seed if self.method in SEEDED_METHODS else 0
        return self.model_copy(update={"layer": layer, "seed": seed})


class ActivationsRequest(_Note):
    """Asks for the feature maps of a layer."""

    task: Literal["activations"] = "activations"
    layer: str | None = None
    channels: int
    order: Order
    seed: int = 0


_REQUEST: TypeAdapter[ExplainRequest | ActivationsRequest] = TypeAdapter(
    Annotated[ExplainRequest | ActivationsRequest, Field(discriminator="task")]
)


def parse_request(note: bytes) -> ExplainRequest | ActivationsRequest:
    """The request in an item's note.

    Raises:
        ValueError: It was made by another release.
    """
    return _REQUEST.validate_json(note)


def operation_of(request: ExplainRequest, explain_layer: str) -> Operation:
    """The operation whose queue a heatmap waits in: faster methods go to queues served first.

    Args:
        request: What is asked for.
        explain_layer: The layer that the version's own endpoints explain.
    """
    if request.metrics or request.method not in FAST:
        return "study"
    own = request.method in OWN_METHODS and request.layer in {None, explain_layer}
    return "heatmap" if own else "explain"


class ExplainReply(_Note):
    """Says that the vector is a grid, row by row."""

    shape: tuple[int, int]
    layer: str | None = Field(description="None for a method that works on the pixels.")
    target: int
    probability: float
    metrics: Faithfulness | None = None


class ChannelSummary(BaseModel):
    """One of a layer's channels."""

    model_config = ConfigDict(frozen=True)

    index: int
    smallest: float = Field(description="The lowest activation anywhere in the image.")
    largest: float
    mean: float


class ActivationsReply(_Note):
    """Says that the vector is feature maps, one channel after the other."""

    shape: tuple[int, int] = Field(description="(height, width) of one map.")
    layer: str
    total: int = Field(description="Channels of the layer.")
    channels: tuple[ChannelSummary, ...]
