"""What a request and a data set's classes have to do with each other. Known without TensorFlow."""

from collections import Counter
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from contracts.errors import ValidationFailed
from contracts.trainings import TrainingRequest
from models.datasets.dataset import Dataset

MOST_CLASSES = 1000


def check_classes(request: TrainingRequest, dataset: Dataset) -> None:
    """Whether a request and a data set fit together.

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
            f"The data set has {classes:,} classes; a training may have {MOST_CLASSES:,}. "
            "Merge some, or split the data set up."
        )


def check_names(request: TrainingRequest, classes: Collection[str]) -> None:
    """Whether a request asks for what can be had of these classes; known without the pictures.

    Raises:
        ValidationFailed: It weighs some that are not there, or has one sigmoid for more than two.
    """
    if request.head is not None and request.head.output == "sigmoid" and len(classes) != 2:
        raise ValidationFailed(
            f"One sigmoid tells 2 classes apart, not {len(classes)}. Send "
            '"head": {"output": "softmax"}, or a data set of 2 classes.'
        )
    if isinstance(request.class_weights, dict):
        strange = request.class_weights.keys() - set(classes)
        if strange:
            raise ValidationFailed(
                f"class_weights: the data set has no class {', '.join(sorted(strange)[:5])}. "
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
