"""Presets: the trainings of the classic tutorials, value by value.

Beside most of them stands a tuned one for the same data (`models.training.tuned_presets`).

A preset holds only what differs from the defaults of
`contracts.training.trainings.TrainingRequest`, including the image size where a tutorial fixes it.
"""

from collections.abc import Mapping
from typing import Any

from contracts.errors import ValidationFailed
from contracts.suggestions import similar
from contracts.training.trainings import FACE_CNN, FACE_NETWORK, Preset, TrainingRequest
from models.training.tuned_presets import TUNED

_PLAIN = {"schedule": "constant", "early_stopping_patience": None, "class_weights": "none"}
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
        accuracy="above 96%",
        request=_PLAIN
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
        accuracy="99.0%",
        request=_PLAIN
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
        accuracy="82%",
        request=_PLAIN
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
        accuracy="65.8%",
        request=_PLAIN
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
        accuracy="93 to 94.1%",
        request=_PLAIN
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
        accuracy="71% with 2,000 images",
        request=_PLAIN
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
        "hours without a GPU; `augmented_views: 4` runs it 5 times an image instead of 30. For two "
        "classes.",
        accuracy="93% with 2,000 images",
        request=_PLAIN
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
        accuracy="95% with 2,000 images",
        request=_PLAIN
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
        accuracy="89 to 91% of 120 kinds",
        request=_PLAIN
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
        description="Four convolutions on 224 x 224 images; 80% is dropped after each pool and "
        "50% after the dense layer; mean subtracted, Adam at 0.00001, batches of 10, 400 epochs.",
        accuracy="about 90% of two breeds",
        request=_PLAIN
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
        accuracy="above 90%",
        request=_PLAIN
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

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (*_TUTORIALS, *TUNED)}


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
