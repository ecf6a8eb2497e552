"""A model's tensors, the same in every protocol: a batch of images in, numbers out."""

from dataclasses import dataclass

from contracts.errors import ModelNotReady, ValidationFailed
from contracts.inference.inference import VectorOperation
from contracts.inference.manifest import Endpoint, Manifest
from contracts.inference.registry import ModelInfo
from models.images.resize import ImageInput

INPUT = "image"
OPERATIONS: dict[str, VectorOperation] = {"probabilities": "classify", "features": "embed"}
_ENDPOINTS: dict[str, Endpoint] = {"probabilities": "serve", "features": "features"}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """The input tensor of a model.

    Attributes:
        image: The shape of one image, (height, width, 3), uint8 RGB; the model preprocesses it.
        max_images: The most images in a request.
        outputs: What the model can return, its default first.
    """

    image: tuple[int, int, int]
    max_images: int
    outputs: tuple[str, ...] = tuple(OPERATIONS)

    @property
    def batch(self) -> tuple[int, int, int, int]:
        """The shape of any number of images."""
        return (-1, *self.image)

    @property
    def image_bytes(self) -> int:
        """The numbers, and so the bytes, in one image."""
        height, width, channels = self.image
        return height * width * channels

    @property
    def max_numbers(self) -> int:
        """The most numbers in a request."""
        return self.max_images * self.image_bytes

    def require_batch(self, count: int) -> None:
        """Raises ValidationFailed unless a request may hold so many images."""
        if not 1 <= count <= self.max_images:
            raise ValidationFailed(
                f"A request takes 1 to {self.max_images} images, this one has {count}."
            )


def tensor_spec(network: ImageInput, max_images: int) -> TensorSpec:
    """The input tensor of a network, for requests of at most `max_images`."""
    return TensorSpec((*network.input_size, 3), max_images)


def outputs_of(manifest: Manifest) -> tuple[str, ...]:
    """The outputs of a version, the default first. A base without a head has only features."""
    return tuple(name for name, endpoint in _ENDPOINTS.items() if endpoint in manifest.endpoints)


def image_shape(info: ModelInfo) -> tuple[int, int, int]:
    """The shape (height, width, 3) of one image.

    Raises:
        ModelNotReady: The model has no version yet, so the shape is unknown.
    """
    if info.input_size is None:
        raise ModelNotReady(f"'{info.name}' has no version yet. {info.reason or ''}", retry_after=5)
    return (*info.input_size, 3)


def output_widths(info: ModelInfo) -> dict[str, int]:
    """The outputs of a model, and how many numbers each has for one image.

    A model that is still loading supports no operation yet; all its future outputs are listed.
    """
    widths = {"probabilities": info.classes, "features": info.features}
    offered = info.operations or tuple(OPERATIONS.values())
    return {
        name: width
        for name, width in widths.items()
        if width is not None and OPERATIONS[name] in offered
    }
