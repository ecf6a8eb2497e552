"""The trainings of the classic tutorials, one row each, so that a name stands for a set-up.

A row holds only what differs from the defaults of `contracts.training.trainings.TrainingRequest`.
Where a tutorial's network has fixed pictures, so has the row.
"""

from collections.abc import Mapping
from typing import Any

from contracts.errors import ValidationFailed
from contracts.training.trainings import FACE_CNN, FACE_NETWORK, Preset, PresetList, TrainingRequest

_LITTLE_DATA = "F. Chollet, “Building powerful image classification models using very little data”"
_LITTLE_DATA_VARIED = {"shear": 0.2, "zoom": 0.2, "horizontal_flip": True}

PRESETS: dict[str, Preset] = {
    row.name: row
    for row in (
        Preset(
            name="mnist",
            title="Handwritten digits from scratch",
            description="The deep MNIST network of TensorFlow's first tutorial: 5 × 5 kernels, "  # noqa: RUF001
            "three dense layers, dropout. 28 × 28 pictures, which must not be mirrored.",  # noqa: RUF001
            accuracy="99 %",
            request={
                "network": "cnn_mnist",
                "strategy": "from_scratch",
                "image_size": 28,
                "epochs": {"scratch": 20},
                "batch_size": 50,
                "optimizer": "adam",
                "learning_rate": {"scratch": 1e-4},
                "early_stopping_patience": 5,
            },
        ),
        Preset(
            name="fashion_mnist",
            title="Pieces of clothing from scratch",
            description="Two convolutions of 64 kernels and one dense layer on 28 × 28 pictures.",  # noqa: RUF001
            accuracy="91 to 92 %",
            request={
                "network": "cnn_small",
                "strategy": "from_scratch",
                "image_size": 28,
                "epochs": {"scratch": 20},
                "batch_size": 64,
                "augmentation": {"horizontal_flip": True},
                "early_stopping_patience": 5,
            },
        ),
        Preset(
            name="cifar10",
            title="Small photos from scratch",
            description="The small network's wider form, 64 and 128 kernels, on 32 × 32 photos.",  # noqa: RUF001
            accuracy="75 to 80 %",
            request={
                "network": "cnn_small",
                "strategy": "from_scratch",
                "image_size": 32,
                "epochs": {"scratch": 50},
                "batch_size": 64,
                "augmentation": {
                    "width_shift": 0.1,
                    "height_shift": 0.1,
                    "horizontal_flip": True,
                },
                "early_stopping_patience": 8,
            },
        ),
        Preset(
            name="cifar10_vgg19_bn",
            title="Small photos with a deep network from scratch",
            description="VGG19 with batch norm and weight decay, dense layers of 4096, for 200 "
            "epochs of SGD from a rate of 0.1. Wants a GPU.",
            accuracy="93.2 to 94.3 %",
            request={
                "network": "vgg19_bn",
                "strategy": "from_scratch",
                "image_size": 32,
                "epochs": {"scratch": 200},
                "batch_size": 128,
                "optimizer": "sgd",
                "learning_rate": {"scratch": 0.1},
                "schedule": "cosine",
                "augmentation": {
                    "width_shift": 0.125,
                    "height_shift": 0.125,
                    "horizontal_flip": True,
                    "fill_mode": "constant",
                },
                "early_stopping_patience": None,
            },
        ),
        Preset(
            name="cats_dogs_scratch",
            title="Two kinds of photos from scratch",
            description=f"A small network and much augmentation at 150 pixels, after {_LITTLE_DATA}"
            ": what can be had without any pretrained weights.",
            accuracy="80 % with 2,000 pictures",
            request={
                "network": "cnn_small",
                "strategy": "from_scratch",
                "image_size": 150,
                "epochs": {"scratch": 50},
                "batch_size": 16,
                "optimizer": "rmsprop",
                "learning_rate": {"scratch": 3e-4},
                "augmentation": _LITTLE_DATA_VARIED,
                "early_stopping_patience": 10,
                "filters_every": 50,
            },
        ),
        Preset(
            name="cats_dogs_frozen",
            title="Two kinds of photos on a frozen VGG16",
            description="Features of VGG16 at 150 pixels, computed once, and a head of 256 units "
            f"with dropout and one sigmoid, after {_LITTLE_DATA}. For two classes; for more, send "
            '"head": {"output": "softmax"}.',
            accuracy="90 % with 2,000 pictures",
            request={
                "network": "vgg16",
                "strategy": "feature_extraction",
                "image_size": 150,
                "head": {"units": [256], "dropout": 0.5, "output": "sigmoid"},
                "epochs": {"head": 50},
                "batch_size": 16,
                "optimizer": "rmsprop",
                "early_stopping_patience": 5,
            },
        ),
        Preset(
            name="cats_dogs_finetuned",
            title="Two kinds of photos, VGG16's last block tuned",
            description="The frozen set-up first, then block 5 at a low rate on augmented "
            f"pictures, after {_LITTLE_DATA}. Likewise for two classes.",
            accuracy="94 % with 2,000 pictures",
            request={
                "network": "vgg16",
                "strategy": "fine_tuning",
                "unfreeze_from": "block5_conv1",
                "image_size": 150,
                "head": {"units": [256], "dropout": 0.5, "output": "sigmoid"},
                "epochs": {"head": 50, "finetune": 50},
                "batch_size": 16,
                "optimizer": "rmsprop",
                "learning_rate": {"head": 1e-3, "finetune": 1e-5},
                "augmentation": _LITTLE_DATA_VARIED,
                "early_stopping_patience": 5,
            },
        ),
        Preset(
            name="fruits360",
            title="Fruits on white on a frozen VGG16",
            description="VGG16's features of the set's own 100 × 100 pictures; easy, for frames "  # noqa: RUF001
            "of one turning fruit are much alike.",
            accuracy="95 to 99 %",
            request={
                "network": "vgg16",
                "strategy": "feature_extraction",
                "image_size": 100,
                "head": {"units": [256], "dropout": 0.3},
                "epochs": {"head": 20},
                "batch_size": 32,
            },
        ),
        Preset(
            name="pets_dropout",
            title="Photos of pets from scratch, held back by dropout",
            description="Four convolutions with dropout after each pool and the dense layer, on "
            "64 × 64 pictures; weights start from a truncated normal of 0.1.",  # noqa: RUF001
            request={
                "network": "cnn_pets",
                "strategy": "from_scratch",
                "image_size": 64,
                "epochs": {"scratch": 50},
                "batch_size": 32,
                "learning_rate": {"scratch": 1e-4},
                "augmentation": {"horizontal_flip": True},
                "early_stopping_patience": 10,
            },
        ),
        Preset(
            name="faces",
            title="Who is it: the classic frame classifier from scratch",
            description="Three convolutions of 5 × 5 and four dense layers on frames of 70 × 50 "  # noqa: RUF001
            "pixels, one class a person. It knows only those it was shown and calls a stranger "
            "by one of their names; see the faces API for what does not.",
            request={
                "network": "cnn_face",
                "strategy": "from_scratch",
                "image_size": [70, 50],
                "epochs": {"scratch": 40},
                "batch_size": 32,
                "learning_rate": {"scratch": 1e-4},
                "augmentation": {
                    "rotation": 10,
                    "width_shift": 0.05,
                    "height_shift": 0.05,
                    "zoom": 0.1,
                    "horizontal_flip": True,
                    "brightness": 0.2,
                },
                "early_stopping_patience": 8,
            },
        ),
    )
}


def preset_list() -> PresetList:
    """All of them, as `GET /v1/presets` shows them."""
    return PresetList(items=list(PRESETS.values()))


def training_request(sent: Mapping[str, Any]) -> TrainingRequest:
    """The whole request that a body stands for, its preset filled in.

    What was sent wins, field by field also inside `head`, `epochs`, `learning_rate` and
    `augmentation`. The network `face_cnn` is the preset `faces` by another name.

    Args:
        sent: The body of `POST /v1/trainings`.

    Raises:
        ValidationFailed: There is no such preset.
        pydantic.ValidationError: The result is no training.
    """
    if sent.get("network") == FACE_CNN:
        sent = {"preset": "faces", **sent, "network": FACE_NETWORK}
    name = sent.get("preset")
    if name is None:
        return TrainingRequest.model_validate(sent)
    row = PRESETS.get(name) if isinstance(name, str) else None
    if row is None:
        known = ", ".join(PRESETS)
        raise ValidationFailed(f"There is no preset '{str(name)[:64]}'. Known: {known}.")
    return TrainingRequest.model_validate(_over(row.request, sent))


def _over(preset: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(preset)
    for name, value in sent.items():
        below = preset.get(name)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[name] = _over(below, value) if both else value  # type: ignore[arg-type]
    return merged
