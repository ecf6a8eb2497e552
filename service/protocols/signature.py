"""A model's tensors, the same in every protocol: a batch of pictures in, numbers out."""

from dataclasses import dataclass

from contracts.errors import ModelNotReady, ValidationFailed
from contracts.inference.inference import Operation
from contracts.inference.registry import ModelInfo
from models.images.decode import Target

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


def signature_of(network: Target, most: int) -> Signature:
    """The signature of a network, for requests of at most `most` pictures."""
    return Signature((*network.input_size, 3), most)


def picture_of(info: ModelInfo) -> tuple[int, int, int]:
    """The shape (height, width, 3) of one picture.

    Raises:
        ModelNotReady: The model has no version yet, so nobody knows.
    """
    if info.input_size is None:
        raise ModelNotReady(f"'{info.name}' has no version yet. {info.reason or ''}", retry_after=5)
    return (*info.input_size, 3)


def widths_of(info: ModelInfo) -> dict[str, int]:
    """The outputs of a model and how many numbers each has for a picture.

    A model that can be asked for nothing now, because it is loading, shows all it will have.
    """
    widths = {"probabilities": info.classes, "features": info.features}
    offered = info.operations or tuple(OPERATIONS.values())
    return {
        name: width
        for name, width in widths.items()
        if width is not None and OPERATIONS[name] in offered
    }
