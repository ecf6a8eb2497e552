"""Presets: the trainings of the classic tutorials, value by value, and tuned ones beside them.

The tuned ones, whose names end in `_tuned`, are for the same data; they take less time or reach
more.

A preset holds only what differs from the defaults of
`contracts.training.trainings.TrainingRequest`, including the image size where a tutorial fixes it.
"""

from collections.abc import Mapping
from typing import Any

from contracts.errors import ValidationFailed
from contracts.suggestions import similar
from contracts.training.trainings import FACE_CNN, FACE_NETWORK, Preset, PresetList, TrainingRequest

_LITTLE_DATA = "F. Chollet, “Building powerful image classification models using very little data”"
_LITTLE_DATA_AUGMENTATION = {"shear": 0.2, "zoom": 0.2, "horizontal_flip": True}

_UNCHANGED = {"schedule": "constant", "early_stopping_patience": None, "class_weights": "none"}
"""What the tutorials do without: a schedule, early stopping and class weights."""
_PHOTO_AUGMENTATION = {
    "rotation": 20,
    "width_shift": 0.2,
    "height_shift": 0.2,
    "shear_degrees": 0.2,
    "zoom": [0.8, 1.2],
    "horizontal_flip": True,
}
_BOOK_AUGMENTATION = {
    "rotation": 40,
    "width_shift": 0.1,
    "height_shift": 0.1,
    "shear_degrees": 0.2,
    "zoom": [0.8, 1.2],
    "horizontal_flip": True,
}

_TUTORIALS = (
    Preset(
        name="mnist",
        title="Handwritten digits from scratch",
        description="5 x 5 kernels, three dense layers with dropout of 0.5 each, 28 x 28 gray "
        "images, Adam at 0.003, batches of 500.",
        accuracy="above 96 %",
        request=_UNCHANGED
        | {
            "network": "cnn_mnist",
            "strategy": "from_scratch",
            "image_size": 28,
            "color_mode": "grayscale",
            "epochs": {"scratch": 10},
            "batch_size": 500,
            "learning_rate": {"scratch": 0.003},
        },
    ),
    Preset(
        name="mnist_small",
        title="Handwritten digits with a small network",
        description="Two convolutions of 64 kernels and one dense layer, 28 x 28 gray images, "
        "five epochs.",
        accuracy="99.0 %",
        request=_UNCHANGED
        | {
            "network": "cnn_small",
            "strategy": "from_scratch",
            "image_size": 28,
            "color_mode": "grayscale",
            "epochs": {"scratch": 5},
        },
    ),
    Preset(
        name="fashion_mnist",
        title="Pieces of clothing from scratch",
        description="The small network on 28 x 28 gray images that are turned, shifted, sheared, "
        "zoomed and mirrored.",
        accuracy="82 %",
        request=_UNCHANGED
        | {
            "network": "cnn_small",
            "strategy": "from_scratch",
            "image_size": 28,
            "color_mode": "grayscale",
            "epochs": {"scratch": 5},
            "batch_size": 16,
            "augmentation": _BOOK_AUGMENTATION,
        },
    ),
    Preset(
        name="cifar10",
        title="Small color images from scratch",
        description="The small network with 64 and 128 kernels on 32 x 32 images that are shifted "
        "and mirrored, five epochs.",
        accuracy="65.8 %",
        request=_UNCHANGED
        | {
            "network": "cnn_small",
            "strategy": "from_scratch",
            "image_size": 32,
            "epochs": {"scratch": 5},
            "batch_size": 16,
            "augmentation": {"width_shift": 0.1, "height_shift": 0.1, "horizontal_flip": True},
        },
    ),
    Preset(
        name="cifar10_vgg19_bn",
        title="Small color images with a deep network from scratch",
        description="VGG19 with batch normalization, also before the softmax, and without its last "
        "pool; mean subtracted, weight decay, 200 epochs of SGD whose rate of 0.1 falls to a tenth "
        "after 80 and 160. Needs a GPU.",
        accuracy="93 to 94.1 %",
        request=_UNCHANGED
        | {
            "network": "vgg19_bn",
            "strategy": "from_scratch",
            "image_size": 32,
            "centering": "mean",
            "epochs": {"scratch": 200},
            "batch_size": 128,
            "optimizer": "sgd",
            "momentum": 0.9,
            "learning_rate": {"scratch": 0.1},
            "schedule": {"at": [80, 160], "factor": 0.1},
            "l2": 5e-4,
            "augmentation": {
                "width_shift": 0.125,
                "height_shift": 0.125,
                "horizontal_flip": True,
                "fill_mode": "constant",
            },
        },
    ),
    Preset(
        name="cats_dogs_scratch",
        title="Two classes of photos from scratch",
        description="The small network with 64 and 128 kernels and one sigmoid on 100 x 100 "
        "images, five epochs, no augmentation. For two classes.",
        accuracy="71 %",
        request=_UNCHANGED
        | {
            "network": "cnn_small",
            "strategy": "from_scratch",
            "image_size": 100,
            "head": {"pooling": "flatten", "units": [128], "dropout": 0, "output": "sigmoid"},
            "epochs": {"scratch": 5},
            "batch_size": 16,
        },
    ),
    Preset(
        name="cats_dogs_frozen",
        title="Two classes of photos on a frozen VGG16",
        description="A dense layer of 256 units and one sigmoid on all positions of VGG16's "
        "features of 256 x 256 images. Every epoch runs VGG16 on newly drawn images, which takes "
        "hours without a GPU; `augmented_views: 4` takes a fifth of the time. For two classes.",
        accuracy="93 %",
        request=_UNCHANGED
        | {
            "network": "vgg16",
            "strategy": "feature_extraction",
            "image_size": 256,
            "head": {"pooling": "flatten", "units": [256], "dropout": 0, "output": "sigmoid"},
            "epochs": {"head": 30},
            "batch_size": 50,
            "learning_rate": {"head": 3e-4},
            "augmentation": _PHOTO_AUGMENTATION,
            "augmented_views": "fresh",
        },
    ),
    Preset(
        name="cats_dogs_finetuned",
        title="Two classes of photos, VGG16 with its last block fine-tuned",
        description="Block 5 of VGG16 and a head with dropout of 0.3 are trained together, in one "
        "phase. For two classes; takes hours without a GPU.",
        accuracy="95 %",
        request=_UNCHANGED
        | {
            "network": "vgg16",
            "strategy": "fine_tuning",
            "unfreeze_from": "block5_conv1",
            "image_size": 256,
            "head": {"pooling": "flatten", "units": [256], "dropout": 0.3, "output": "sigmoid"},
            "epochs": {"head": 0, "finetune": 30},
            "batch_size": 50,
            "learning_rate": {"finetune": 3e-4},
            "augmentation": _PHOTO_AUGMENTATION,
        },
    ),
    Preset(
        name="fruits360",
        title="Fruits on white on a frozen VGG16",
        description="A dense layer of 1,000 units on VGG16's features of 100 x 100 images, which "
        "are newly drawn in every epoch.",
        accuracy="89 to 91 % of 120 kinds",
        request=_UNCHANGED
        | {
            "network": "vgg16",
            "strategy": "feature_extraction",
            "image_size": 100,
            "head": {"pooling": "flatten", "units": [1000], "dropout": 0},
            "epochs": {"head": 5},
            "batch_size": 16,
            "augmentation": _BOOK_AUGMENTATION,
            "augmented_views": "fresh",
        },
    ),
    Preset(
        name="pets_dropout",
        title="Photos of pets from scratch, regularized by dropout",
        description="Four convolutions on 224 x 224 images; 80 % is dropped after each pool and "
        "50 % after the dense layer; mean subtracted, Adam at 0.00001, batches of 10, 400 epochs.",
        accuracy="about 90 % of two breeds",
        request=_UNCHANGED
        | {
            "network": "cnn_pets",
            "strategy": "from_scratch",
            "image_size": 224,
            "centering": "mean",
            "epochs": {"scratch": 400},
            "batch_size": 10,
            "learning_rate": {"scratch": 1e-5},
            "filters_every": 50,
        },
    ),
    Preset(
        name="faces",
        title="People: the classic frame classifier from scratch",
        description="Three convolutions of 5 x 5 without padding and four dense layers with "
        "dropout, a sigmoid for each person, frames of 70 x 50 pixels. It knows only the people it "
        "was trained on and gives a stranger one of their names; use the faces API to avoid that.",
        accuracy="above 90 %",
        request=_UNCHANGED
        | {
            "network": "cnn_face",
            "strategy": "from_scratch",
            "image_size": [70, 50],
            "epochs": {"scratch": 10},
            "batch_size": 20,
            "augmentation": {
                "rotation": 50,
                "width_shift": 0.3,
                "height_shift": 0.3,
                "shear_degrees": 0.3,
                "zoom": [0.7, 1.3],
                "horizontal_flip": True,
            },
        },
    ),
)

_TUNED = (
    Preset(
        name="mnist_tuned",
        title="Handwritten digits from scratch",
        description="The deep MNIST network of TensorFlow's first tutorial: 5 × 5 kernels, "  # noqa: RUF001
        "three dense layers, dropout. 28 × 28 images, which must not be mirrored.",  # noqa: RUF001
        accuracy="99 %",
        request={
            "network": "cnn_mnist",
            "strategy": "from_scratch",
            "head": {"pooling": "flatten", "units": [1024, 256, 50], "dropout": [0.5, 0, 0]},
            "image_size": 28,
            "epochs": {"scratch": 20},
            "batch_size": 50,
            "optimizer": "adam",
            "learning_rate": {"scratch": 1e-4},
            "early_stopping_patience": 5,
        },
    ),
    Preset(
        name="fashion_mnist_tuned",
        title="Pieces of clothing from scratch",
        description="Two convolutions of 64 kernels and one dense layer on 28 × 28 images.",  # noqa: RUF001
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
        name="cifar10_tuned",
        title="Small images from scratch",
        description="The small network with 64 and 128 kernels, on 32 × 32 images.",  # noqa: RUF001
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
        name="cifar10_vgg19_bn_tuned",
        title="Small images with a deep network from scratch",
        description="VGG19 with batch normalization and weight decay, dense layers of 4096 "
        "units, 200 epochs of SGD with an initial learning rate of 0.1. Needs a GPU.",
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
        name="cats_dogs_scratch_tuned",
        title="Two classes of photos from scratch",
        description=f"A small network, much augmentation, 150 pixels, after {_LITTLE_DATA}"
        ": what is possible without pretrained weights.",
        accuracy="80 % with 2,000 images",
        request={
            "network": "cnn_small",
            "strategy": "from_scratch",
            "image_size": 150,
            "epochs": {"scratch": 50},
            "batch_size": 16,
            "optimizer": "rmsprop",
            "learning_rate": {"scratch": 3e-4},
            "augmentation": _LITTLE_DATA_AUGMENTATION,
            "early_stopping_patience": 10,
            "filters_every": 50,
        },
    ),
    Preset(
        name="cats_dogs_frozen_tuned",
        title="Two classes of photos on a frozen VGG16",
        description="Features of VGG16 at 150 pixels, computed once, and a head of 256 units "
        f"with dropout and one sigmoid, after {_LITTLE_DATA}. For two classes; for more, send "
        '"head": {"output": "softmax"}.',
        accuracy="90 % with 2,000 images",
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
        name="cats_dogs_finetuned_tuned",
        title="Two classes of photos, VGG16 with its last block fine-tuned",
        description="First the frozen VGG16, then block 5 at a low learning rate on "
        f"augmented images, after {_LITTLE_DATA}. Also for two classes.",
        accuracy="94 % with 2,000 images",
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
            "augmentation": _LITTLE_DATA_AUGMENTATION,
            "early_stopping_patience": 5,
        },
    ),
    Preset(
        name="fruits360_tuned",
        title="Fruits on white on a frozen VGG16",
        description="VGG16's features of the dataset's own 100 × 100 images. Easy, because the "  # noqa: RUF001
        "frames of one rotating fruit are much alike.",
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
        name="pets_dropout_tuned",
        title="Photos of pets from scratch, regularized by dropout",
        description="Four convolutions with dropout after each pooling and the dense layer, on "
        "64 × 64 images; initial weights from a truncated normal distribution of 0.1.",  # noqa: RUF001
        request={
            "network": "cnn_pets",
            "strategy": "from_scratch",
            "pool_dropout": 0.2,
            "image_size": 64,
            "epochs": {"scratch": 50},
            "batch_size": 32,
            "learning_rate": {"scratch": 1e-4},
            "augmentation": {"horizontal_flip": True},
            "early_stopping_patience": 10,
        },
    ),
    Preset(
        name="faces_tuned",
        title="People: the classic frame classifier from scratch",
        description="Three convolutions of 5 × 5 and four dense layers on frames of 70 × 50 "  # noqa: RUF001
        "pixels, one class per person. It knows only the people it was trained on and gives "
        "a stranger one of their names; use the faces API to avoid that.",
        request={
            "network": "cnn_face",
            "strategy": "from_scratch",
            "head": {"pooling": "flatten", "units": [8192, 1024, 128, 60], "dropout": 0},
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

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (*_TUTORIALS, *_TUNED)}


def preset_list() -> PresetList:
    """All presets, for `GET /v1/presets`."""
    return PresetList(items=list(PRESETS.values()))


def training_request(sent: Mapping[str, Any]) -> TrainingRequest:
    """The complete request for a body, with its preset filled in.

    Fields of the body take precedence over the preset, also inside `head`, `epochs`,
    `learning_rate` and `augmentation`. The network `face_cnn` is another name of the preset
    `faces_tuned`.

    Args:
        sent: The body of `POST /v1/trainings`.

    Raises:
        ValidationFailed: There is no such preset.
        pydantic.ValidationError: The result is not a valid request.
    """
    if sent.get("network") == FACE_CNN:
        sent = {"preset": "faces_tuned", **sent, "network": FACE_NETWORK}
    name = sent.get("preset")
    if name is None:
        return TrainingRequest.model_validate(sent)
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        known = ", ".join(PRESETS)
        quoted = str(name)[:64]
        raise ValidationFailed(
            f"There is no preset '{quoted}'.{similar(quoted, PRESETS)} Known: {known}."
        )
    return TrainingRequest.model_validate(_merge(preset.request, sent))


def _merge(preset: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(preset)
    for name, value in sent.items():
        default = preset.get(name)
        both = isinstance(default, Mapping) and isinstance(value, Mapping)
        merged[name] = _merge(default, value) if both else value  # type: ignore[arg-type]
    return merged
