"""Estimates the memory of a training, before it is queued and again where it runs.

The estimate uses shapes alone because the API process has no TensorFlow. It refuses only what could
never fit, such as a flattened megapixel in front of 8,192 units.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from contracts.errors import ValidationFailed
from contracts.settings import MIB
from contracts.training.datasets import DatasetInfo, SplitName
from contracts.training.training_options import Head
from contracts.training.trainings import TrainableNetwork, TrainingRequest

_FIXED = 1024 * MIB  # TensorFlow itself, the export and the report
_DECODED_BYTES = 1024 * MIB  # see `models.training.loop.trainer.TrainingEnvironment`
_FEATURE_BYTES = 512 * MIB  # larger ones are files, see `models.training.data.features`
_FLOAT_BYTES = 4
# Of a trained weight: itself, gradient, Adam's two moments, the best epoch's copy, the checkpoint.
_COPIES = 6
# Of all feature maps: training keeps each one and its gradient; a frozen base keeps two at a time.
_TRAINED, _FROZEN = 2.0, 0.5
_LAST_BLOCK = 0.25  # what is trained by default is last, where the maps are small
_FROZEN_BATCH = 32  # see `models.training.data.features`


@dataclass(frozen=True, slots=True)
class _NetworkShape:
    """The properties of a network that its memory depends on.

    Attributes:
        size: Default (height, width) of the input in pixels.
        stride: Input pixels per position of the last feature maps, along a side.
        channels: Channels of the last feature maps.
        weights: Number of weights below the classifier.
        activations: Number of activations that training keeps, per input pixel.
        top: Units of its own dense layers; None if it ends in a convolution or a pooling.
        valid: Pixels that the convolutions before each 2x2 pool cut off; empty with padding.
    """

    size: tuple[int, int]
    stride: int
    channels: int
    weights: int
    activations: int
    top: tuple[int, ...] | None = None
    valid: tuple[int, ...] = ()


_SHAPES: dict[TrainableNetwork, _NetworkShape] = {
    "efficientnet_lite0": _NetworkShape((224, 224), 32, 1280, 3_400_000, 300),
    "squeezenet": _NetworkShape((227, 227), 16, 512, 720_000, 80),
    "vgg16": _NetworkShape((224, 224), 32, 512, 14_700_000, 300, (4096, 4096)),
    "vgg19": _NetworkShape((224, 224), 32, 512, 20_000_000, 340, (4096, 4096)),
    "vgg19_bn": _NetworkShape((32, 32), 16, 512, 20_000_000, 900, (4096, 4096)),
    "cnn_mnist": _NetworkShape((28, 28), 4, 64, 60_000, 120, (1024, 256, 50)),
    "cnn_small": _NetworkShape((28, 28), 4, 128, 80_000, 160, (128,), valid=(2, 2)),
    "cnn_pets": _NetworkShape((64, 64), 4, 64, 60_000, 160, (512,)),
    "cnn_face": _NetworkShape(
        (70, 50), 8, 128, 260_000, 160, (8192, 1024, 128, 60), valid=(4, 4, 4)
    ),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated memory in bytes.

    Attributes:
        weights: All weights, and the copies of those that are trained.
        activations: The activations of one batch.
        images: The decoded images, what is answered for them, and their features if the base is
            frozen.
    """

    weights: int
    activations: int
    images: int = 0

    @property
    def total(self) -> int:
        """All memory, including what every training takes."""
        return _FIXED + self.weights + self.activations + self.images


Images = Mapping[SplitName, int]
"""The number of images of each split."""


def images_of(request: TrainingRequest, info: DatasetInfo) -> Images:
    """At most how many images of each split a training has: those of its classes, or all."""
    known = info.classes
    chosen = sum(known.get(name, 0) for name in request.classes or known)
    return {split: min(count, chosen) for split, count in info.splits.items()}


def estimate(request: TrainingRequest, classes: int, images: Images | None = None) -> Estimate:
    """The peak memory of a training.

    Args:
        request: The training.
        classes: Number of classes.
        images: Its images; if not known, there are enough for the largest batch.
    """
    shape, size = _SHAPES[request.network], request.image_size
    height, width = shape.size if size is None else (size, size) if isinstance(size, int) else size
    positions = _positions(shape, height) * _positions(shape, width)
    head = _head_weights(request, shape, positions, classes)
    trains_base = request.strategy != "feature_extraction"
    weights = _FLOAT_BYTES * (_COPIES * head + 2 * shape.weights)
    if trains_base:
        weights += _FLOAT_BYTES * _COPIES * shape.weights
    pixels = height * width * _FLOAT_BYTES * shape.activations
    batch = request.batch_size
    if images is not None:
        batch = min(batch, max(1, images.get("train", 0)))
    training = int(batch * pixels * _kept_share(request))
    count = sum((images or {}).values())
    stored = min(_DECODED_BYTES, count * height * width * 3)
    stored += probability_bytes(count, classes)
    if not trains_base:
        stored += min(_FEATURE_BYTES, count * positions * shape.channels * _FLOAT_BYTES)
    return Estimate(weights, max(training, int(_FROZEN_BATCH * pixels * _FROZEN)), stored)


def probability_bytes(images: int, classes: int) -> int:
    """Of what a network answers for many images, while the report on it is made."""
    return 2 * images * classes * _FLOAT_BYTES


def _kept_share(request: TrainingRequest) -> float:
    """How many times the feature maps of a batch are in memory while it is trained."""
    if request.strategy == "feature_extraction":
        return 0.0
    if request.strategy == "fine_tuning" and request.unfreeze_from is None:
        return _FROZEN + _LAST_BLOCK
    return _TRAINED


def _positions(shape: _NetworkShape, side: int) -> int:
    """Positions of the last feature maps along a side of the input."""
    if not shape.valid:
        return -(-side // shape.stride)
    for cut in shape.valid:
        side = (side - cut) // 2
    return max(1, side)


def _head_weights(
    request: TrainingRequest, shape: _NetworkShape, positions: int, classes: int
) -> int:
    """Number of weights of the classifier."""
    own = request.strategy == "from_scratch" and request.head is None
    head = request.head or Head()
    if own and shape.top is None:
        return shape.channels * classes
    flat = own or head.pooling == "flatten"
    units = (shape.top or ()) if own else head.units
    sizes = [shape.channels * (positions if flat else 1), *units, classes]
    return sum(prod(pair) for pair in pairwise(sizes))


def check_memory(
    request: TrainingRequest, classes: int, limit: int, images: Images | None = None
) -> int:
    """Check that a training could fit into memory; return the bytes that it needs.

    Args:
        request: The training.
        classes: Number of classes.
        limit: Available bytes.
        images: As for `estimate`.

    Raises:
        ValidationFailed: It could not; says by how much, and what to change.
    """
    memory = estimate(request, classes, images)
    if memory.total <= limit:
        return memory.total
    change = "a smaller batch_size or image_size"
    if memory.weights > memory.activations:
        change = 'fewer units or "pooling": "average" in head, or a smaller image_size'
    raise ValidationFailed(
        f"The training would need about {memory.total / 1e9:.1f} GB of memory; the limit is "
        f"{limit / 1e9:.1f} GB (OPSIN_TRAINING_MEMORY_MB). Send {change}."
    )
