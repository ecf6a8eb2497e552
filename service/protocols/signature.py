"""A model's tensors, the same in every protocol: a batch of pictures in, numbers out."""

from dataclasses import dataclass

from contracts.errors import ValidationFailed
from contracts.inference import Operation
from contracts.registry import ModelInfo
from models.catalog import Network

INPUT = "image"
OPERATIONS: dict[str, Operation] = {"probabilities": "classify", "features": "embed"}
DEFAULT_OUTPUT = "probabilities"


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out.

    Attributes:
        picture: (height, width, 3) of one picture, uint8 RGB. Preprocessing is the model's.
        most: Pictures a request may hold.
    """

    picture: tuple[int, int, int]
    most: int

    @property
    def batch(self) -> tuple[int, int, int, int]:
        """The shape of any number of pictures."""
        return (-1, *self.picture)

    @property
    def levels(self) -> int:
        """Numbers in one picture, and so its bytes."""
        height, width, channels = self.picture
        return height * width * channels

    def require_batch(self, count: int) -> None:
        """Raises ValidationFailed for no picture, and for more than a request may hold."""
        if not 1 <= count <= self.most:
            raise ValidationFailed(
                f"A request takes 1 to {self.most} images, this one has {count}."
            )


def signature_of(network: Network, most: int) -> Signature:
    """The signature of a network, for requests of at most `most` pictures."""
    return Signature((*network.input_size, 3), most)


def widths_of(info: ModelInfo, network: Network) -> dict[str, int]:
    """The outputs of a model and how many numbers each has for a picture.

    A model that can be asked for nothing now, because it is loading, shows all it will have.
    """
    widths = {"probabilities": info.classes or network.classes, "features": network.features}
    offered = info.operations or tuple(OPERATIONS.values())
    return {name: widths[name] for name, operation in OPERATIONS.items() if operation in offered}
