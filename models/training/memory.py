"""About how much memory a training will take: asked before it queues, and again where it runs.

An estimate from the shapes alone, since the API process has no TensorFlow to ask: it shall refuse
what could never fit, such as a flattened megapixel before 8,192 units, and let through what might.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import psutil

from contracts.errors import ValidationFailed
from contracts.settings import MIB
from contracts.training.trainings import Head, TrainableNetwork, TrainingRequest

_CGROUP = Path("/sys/fs/cgroup/memory.max")
_FIXED = 1024 * MIB  # TensorFlow itself, and the pictures that are kept decoded
_FLOAT = 4
# A weight that learns: itself, its gradient, Adam's two, the best epoch's copy, the checkpoint's.
_COPIES = 6
_FROZEN_BATCH = 32  # see `models.training.data.features`


@dataclass(frozen=True, slots=True)
class _Shape:
    """What matters of a network.

    Attributes:
        size: (height, width) of the input in pixels, unless another is asked for.
        stride: Pixels of the input for each place of the last maps, along a side.
        channels: Of the last maps.
        weights: Of all that lies below the classifier.
        floats: All activations of a picture, for each of its pixels, as they are kept to learn.
        top: Units of its own dense layers; None: it ends in a convolution or a pooling.
    """

    size: tuple[int, int]
    stride: int
    channels: int
    weights: int
    floats: int
    top: tuple[int, ...] | None = None


_SHAPES: dict[TrainableNetwork, _Shape] = {
    "efficientnet_lite0": _Shape((224, 224), 32, 1280, 3_400_000, 300),
    "squeezenet": _Shape((227, 227), 16, 512, 720_000, 80),
    "vgg16": _Shape((224, 224), 32, 512, 14_700_000, 300, (4096, 4096)),
    "vgg19": _Shape((224, 224), 32, 512, 20_000_000, 340, (4096, 4096)),
    "vgg19_bn": _Shape((32, 32), 32, 512, 20_000_000, 900, (4096, 4096)),
    "cnn_mnist": _Shape((28, 28), 4, 64, 60_000, 120, (1024,)),
    "cnn_small": _Shape((28, 28), 4, 64, 60_000, 120, (512,)),
    "cnn_pets": _Shape((64, 64), 4, 64, 60_000, 160, (512,)),
    "cnn_face": _Shape((70, 50), 8, 64, 100_000, 160, (512,)),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes, and where they go.

    Attributes:
        weights: For all that learns and its copies, and for what does not.
        activations: For one batch.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, with what every training takes."""
        return _FIXED + self.weights + self.activations


def estimate(request: TrainingRequest, classes: int) -> Estimate:
    """What a training will take at its peak.

    Args:
        request: What is asked for.
        classes: Size of the softmax.
    """
    shape, asked = _SHAPES[request.network], request.image_size
    height, width = (
        shape.size if asked is None else (asked, asked) if isinstance(asked, int) else asked
    )
    places = -(-height // shape.stride) * -(-width // shape.stride)
    head = _head(request, shape, places, classes)
    learns = "head" if request.strategy == "feature_extraction" else "all"
    weights = _FLOAT * (_COPIES * head + 2 * shape.weights)
    if learns == "all":
        weights += _FLOAT * _COPIES * shape.weights
    pixels = height * width * _FLOAT * shape.floats
    # Learning keeps every map and makes a gradient of each; a frozen base keeps two at a time.
    learning = 2 * request.batch_size * pixels if learns == "all" else 0
    return Estimate(weights, max(learning, _FROZEN_BATCH * pixels // 2))


def _head(request: TrainingRequest, shape: _Shape, places: int, classes: int) -> int:
    """Weights of the classifier."""
    own = request.strategy == "from_scratch" and request.head is None
    head = request.head or Head()
    if own and shape.top is None:
        return shape.channels * classes
    flat = own or head.pooling == "flatten"
    units = (shape.top or ()) if own else head.units
    sizes = [shape.channels * (places if flat else 1), *units, classes]
    return sum(prod(pair) for pair in pairwise(sizes))


def check_size(request: TrainingRequest, classes: int, limit: int) -> None:
    """Whether a training could fit.

    Args:
        request: What is asked for.
        classes: How many there are.
        limit: Bytes there are.

    Raises:
        ValidationFailed: It could not; says by how much, and what to change.
    """
    found = estimate(request, classes)
    if found.total <= limit:
        return
    change = "batch_size or image_size"
    if found.weights > found.activations:
        change = 'units, or "pooling": "average", in head; or a smaller image_size'
    raise ValidationFailed(
        f"The training would take about {found.total / 1e9:.1f} GB of memory, and it may take "
        f"{limit / 1e9:.1f} GB (OPSIN_TRAINING_MEMORY_MB). Send less of {change}."
    )


def memory_limit(megabytes: int) -> int:
    """Bytes that a training may take: as set, or what this machine or container has."""
    if megabytes:
        return megabytes * MIB
    total: int = psutil.virtual_memory().total
    try:
        return min(total, int(_CGROUP.read_text()))
    except (OSError, ValueError):
        return total  # not in a container, or "max"
