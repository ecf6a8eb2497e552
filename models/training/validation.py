"""What a request and a dataset's classes have to do with each other. Known without TensorFlow.

Under which names a training may publish; known without TensorFlow, so asked before it queues.

What a request may ask of its network; known without TensorFlow, so asked before it queues.

Whose kernels `filters_layer` may ask for; known without TensorFlow, so asked at once.

The smallest pictures that a network takes; known without TensorFlow, so asked at once.

Each pooling halves a side, and after the last one a pixel must be left.

Which layers and blocks `unfreeze_from` may name; known without TensorFlow, so asked at once.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from contracts.errors import ValidationFailed
from contracts.training.trainings import TrainableNetwork, TrainingRequest
from models.catalog import CATALOG
from models.datasets.dataset import Dataset
from models.training.layer_names import convolutions_of, layers_of, near

MOST_CLASSES = 1000


def check_classes(request: TrainingRequest, dataset: Dataset) -> None:
    """Whether a request and a dataset fit together.

    Raises:
        ValidationFailed: They do not; says what to change.
    """
    counts = Counter(one.label for one in dataset.of("train"))
    if len(dataset.classes) < 2:
        raise ValidationFailed("A training needs at least 2 classes; add pictures of another.")
    check_count(len(dataset.classes))
    bare = [name for name in dataset.classes if not counts[name]]
    if bare:
        raise ValidationFailed(
            f"There are no training pictures of {', '.join(bare[:5])}; add some, or remove it."
        )
    check_names(request, dataset.classes)


def check_count(classes: int) -> None:
    """Whether there are not too many: the report holds a number for each pair of them.

    Raises:
        ValidationFailed: There are more than a training may have.
    """
    if classes > MOST_CLASSES:
        raise ValidationFailed(
            f"The dataset has {classes:,} classes; a training may have {MOST_CLASSES:,}. "
            "Merge some, or split the dataset up."
        )


def check_names(request: TrainingRequest, classes: Collection[str]) -> None:
    """Whether a request asks for what can be had of these classes; known without the pictures.

    Raises:
        ValidationFailed: It weighs some that are not there, or has one sigmoid for more than two.
    """
    if request.head is not None and request.head.output == "sigmoid" and len(classes) != 2:
        raise ValidationFailed(
            f"One sigmoid tells 2 classes apart, not {len(classes)}. Send "
            '"head": {"output": "softmax"}, or a dataset of 2 classes.'
        )
    if isinstance(request.class_weights, dict):
        strange = request.class_weights.keys() - set(classes)
        if strange:
            raise ValidationFailed(
                f"class_weights: the dataset has no class {', '.join(sorted(strange)[:5])}. "
                f"Its classes: {', '.join(sorted(classes)[:20])}."
            )


def class_weights(request: TrainingRequest, dataset: Dataset) -> npt.NDArray[np.float32]:
    """What a picture of each class counts for, float32 (classes,).

    ``auto`` is pictures / (classes * pictures of the class), after King and Zeng, 2001: all
    classes then count alike, and the mean over the pictures is 1. A class left out of a table
    weighs 1.
    """
    wanted = request.class_weights
    if isinstance(wanted, dict):
        return np.array([wanted.get(name, 1.0) for name in dataset.classes], np.float32)
    if wanted == "none":
        return np.ones(len(dataset.classes), np.float32)
    learning = dataset.of("train")
    counts = Counter(one.label for one in learning)
    share = len(learning) / len(dataset.classes)
    return np.array([share / counts[name] for name in dataset.classes], np.float32)


def check_name(model: str) -> None:
    """Whether a training may publish under that name.

    Raises:
        ValidationFailed: It belongs to a published network, whose clients expect its own classes.
    """
    if model in CATALOG:
        raise ValidationFailed(
            f"'{model}' is the name of a published network, whose clients expect its own classes. "
            f"Choose another name for what you train, e.g. 'my-{model}'."
        )


def check_network(request: TrainingRequest) -> None:
    """Whether the network has the layers, and takes the pictures, that are asked for.

    Raises:
        ValidationFailed: It does not; says what it has.
    """
    check_unfreezing(request)
    check_picture_size(request)
    check_filters(request)


def check_filters(request: TrainingRequest) -> None:
    """Whether there is the convolution whose kernels are to be filmed.

    Raises:
        ValidationFailed: The network has no such convolution.
    """
    known, name = convolutions_of(request.network), request.filters_layer
    if name is None or name in known:
        return
    raise ValidationFailed(
        f"filters_layer: there is no convolution '{name[:64]}'.{near(name, known)} "
        f"Known: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}."
    )


SMALLEST: dict[TrainableNetwork, int] = {
    "squeezenet": 31,
    "vgg16": 32,
    "vgg19": 32,
    "vgg19_bn": 32,
}
"""Pixels of a side; the others take all that may be asked for."""


def check_picture_size(request: TrainingRequest) -> None:
    """Whether anything would be left of the pictures after the network's poolings.

    Raises:
        ValidationFailed: They are too small for it.
    """
    asked, least = request.image_size, SMALLEST.get(request.network, 0)
    if asked is None:
        return
    height, width = (asked, asked) if isinstance(asked, int) else asked
    if min(height, width) < least:
        raise ValidationFailed(
            f"image_size: {request.network} takes pictures of at least {least} x {least} pixels, "
            f"not {height} x {width}. Smaller ones are enlarged: leave image_size out, or send "
            f"{least} or more."
        )


_BLOCK = re.compile(r"(([a-z]+\d+)[a-z]?)(?=_|$)")


def check_unfreezing(request: TrainingRequest) -> None:
    """Whether there is what is to be unfrozen; asked before anything queues or learns.

    Raises:
        ValidationFailed: The network has no such layer or block.
    """
    if request.unfreeze_from is not None:
        position(layers_of(request.network), request.unfreeze_from)


def position(names: Sequence[str], wanted: str) -> int:
    """Where a layer, or the first layer of a block such as ``block5`` or ``fire9``, stands.

    Args:
        names: Of the base's layers, from the picture on.
        wanted: One of them, or a block of them.

    Raises:
        ValidationFailed: There is none; says which there are.
    """
    if wanted in names:
        return names.index(wanted)
    blocks = _blocks(names)
    if wanted in blocks:
        return blocks[wanted]
    nearest = near(wanted, [*names, *blocks])
    # Parts of a block, such as block6a of block6, would only make the list longer.
    whole = [name for name in blocks if name[-1].isdecimal()]
    raise ValidationFailed(
        f"unfreeze_from: the network has no layer or block '{wanted[:64]}'.{nearest} "
        f"Blocks: {', '.join(whole)}. GET /v1/models/{{name}}/layers lists the layers."
    )


def _blocks(names: Sequence[str]) -> dict[str, int]:
    """Every block and part of one, by where its first layer stands."""
    found: dict[str, int] = {}
    for place, name in enumerate(names):
        if match := _BLOCK.match(name):
            found.setdefault(match[2], place)
            found.setdefault(match[1], place)
    return found
