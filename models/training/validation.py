"""Checks whether a training may be requested, before it is queued. Needs no TensorFlow.

Each `check_…` function returns nothing or raises `ValidationFailed`, whose message says what to
change. The API and the command line call them on a request, and the trainer calls them again.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from contracts.errors import ValidationFailed
from contracts.training.trainings import MAX_CLASSES, TrainableNetwork, TrainingRequest
from models.catalog import CATALOG
from models.datasets.dataset import Dataset
from models.training.layer_names import convolution_names, layer_names, suggestion

MIN_IMAGE_SIDES: dict[TrainableNetwork, int] = {
    "squeezenet": 31,
    "vgg16": 32,
    "vgg19": 32,
    "cnn_face": 36,
}
"""Smallest input side in pixels; the other networks accept every size that a request may name."""

_BLOCK = re.compile(r"(([a-z]+\d+)[a-z]?)(?=_|$)")


def check_model_name(model: str) -> None:
    """Check that a training may publish under this name.

    Raises:
        ValidationFailed: It is the name of a published network.
    """
    if model in CATALOG:
        raise ValidationFailed(
            f"'{model}' is the name of a published network, whose clients expect its own classes. "
            f"Choose another name for the model you train, e.g. 'my-{model}'."
        )


def check_network(request: TrainingRequest) -> None:
    """Check the layer names and the image size of a request against its network.

    Raises:
        ValidationFailed: The network has no such layer, or needs larger images.
    """
    check_unfreeze_from(request)
    check_image_size(request)
    check_filters_layer(request)


def check_unfreeze_from(request: TrainingRequest) -> None:
    """Check that `unfreeze_from` names a layer or block of the network.

    Raises:
        ValidationFailed: It does not.
    """
    if request.unfreeze_from is not None:
        layer_index(layer_names(request.network), request.unfreeze_from)


def check_image_size(request: TrainingRequest) -> None:
    """Check that an image is large enough for the network's pooling layers.

    Raises:
        ValidationFailed: It is too small: after the last pooling no pixel would be left.
    """
    size, minimum = request.image_size, MIN_IMAGE_SIDES.get(request.network, 0)
    if size is None:
        return
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < minimum:
        raise ValidationFailed(
            f"image_size: {request.network} needs at least {minimum} x {minimum} pixels, "
            f"not {height} x {width}. Smaller images are enlarged: leave image_size out, or send "
            f"{minimum} or more."
        )


def check_filters_layer(request: TrainingRequest) -> None:
    """Check that `filters_layer` names a convolution of the network.

    Raises:
        ValidationFailed: It does not.
    """
    known, name = convolution_names(request.network), request.filters_layer
    if name is None or name in known:
        return
    raise ValidationFailed(
        f"filters_layer: the network has no convolution '{name[:64]}'.{suggestion(name, known)} "
        f"Its convolutions: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}."
    )


def select_classes(dataset: Dataset, classes: Collection[str] | None) -> Dataset:
    """The part of a dataset that has these classes; all of it for None.

    Raises:
        ValidationFailed: The dataset has no class of that name.
    """
    if classes is None:
        return dataset
    check_selected_classes(classes, dataset.classes)
    selected = set(classes)
    return replace(
        dataset,
        classes=tuple(name for name in dataset.classes if name in selected),
        examples=tuple(example for example in dataset.examples if example.label in selected),
    )


def check_selected_classes(selected: Collection[str] | None, classes: Sequence[str]) -> None:
    """Check that a dataset has all classes that a request selects.

    Raises:
        ValidationFailed: It has not.
    """
    known = set(classes)
    unknown = [name for name in selected or () if name not in known]
    if unknown:
        raise ValidationFailed(
            f"classes: the dataset has no class '{unknown[0][:64]}'."
            f"{suggestion(unknown[0], classes)} Its classes: {', '.join(classes[:20])}."
        )


def check_dataset(request: TrainingRequest, dataset: Dataset) -> None:
    """Check that a request and a dataset fit together.

    Raises:
        ValidationFailed: They do not.
    """
    if len(dataset.classes) < 2:
        raise ValidationFailed("A training needs at least 2 classes; add images of another one.")
    check_class_count(len(dataset.classes))
    counts = Counter(example.label for example in dataset.of("train"))
    empty = [name for name in dataset.classes if not counts[name]]
    if empty:
        raise ValidationFailed(
            f"There are no training images of {', '.join(empty[:5])}; add some, or remove the "
            "class."
        )
    check_class_options(request, dataset.classes)


def check_class_count(classes: int) -> None:
    """Check the number of classes: a report holds a number for each pair of them.

    Raises:
        ValidationFailed: There are more than `MAX_CLASSES`.
    """
    if classes > MAX_CLASSES:
        raise ValidationFailed(
            f"The dataset has {classes:,} classes; a training may have {MAX_CLASSES:,}. "
            "Merge some, or split the dataset."
        )


def check_class_options(request: TrainingRequest, classes: Collection[str]) -> None:
    """Check the options of a request that depend on the names of the classes.

    Raises:
        ValidationFailed: It weights an unknown class, or has one sigmoid for other than 2 classes.
    """
    if request.head is not None and request.head.output == "sigmoid" and len(classes) != 2:
        raise ValidationFailed(
            f"One sigmoid distinguishes 2 classes, not {len(classes)}. Send "
            '"head": {"output": "softmax"}, or a dataset of 2 classes.'
        )
    if isinstance(request.class_weights, dict):
        unknown = request.class_weights.keys() - set(classes)
        if unknown:
            raise ValidationFailed(
                f"class_weights: the dataset has no class {', '.join(sorted(unknown)[:5])}. "
                f"Its classes: {', '.join(sorted(classes)[:20])}."
            )


def layer_index(layers: Sequence[str], name: str | int) -> int:
    """The index of a layer, or of the first layer of a block such as ``block5`` or ``fire9``.

    Args:
        layers: Names of the base's layers, in order from the input.
        name: A layer or a block, or the index itself.

    Raises:
        ValidationFailed: There is no such layer or block.
    """
    if isinstance(name, int):
        if name < len(layers):
            return name
        raise ValidationFailed(
            f"unfreeze_from: the base has {len(layers)} layers, so at most {len(layers) - 1} can "
            'stay frozen; to train none of them, send "strategy": "feature_extraction".'
        )
    if name in layers:
        return layers.index(name)
    blocks = _blocks(layers)
    if name in blocks:
        return blocks[name]
    similar = suggestion(name, [*layers, *blocks])
    # Parts of a block, such as block6a of block6, would only make the list longer.
    whole = [block for block in blocks if block[-1].isdecimal()]
    raise ValidationFailed(
        f"unfreeze_from: the network has no layer or block '{name[:64]}'.{similar} "
        f"Blocks: {', '.join(whole)}. GET /v1/models/{{name}}/layers lists the layers."
    )


def _blocks(layers: Sequence[str]) -> dict[str, int]:
    """The index of the first layer of every block and part of a block."""
    first: dict[str, int] = {}
    for index, layer in enumerate(layers):
        if match := _BLOCK.match(layer):
            first.setdefault(match[2], index)
            first.setdefault(match[1], index)
    return first
