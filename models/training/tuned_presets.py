"""Tuned presets: for the data of the tutorials, but they take less time or reach more.

Their names end in `_tuned`; see `models.training.presets` for the tutorials themselves.
"""

from contracts.training.trainings import Preset

_LITTLE_DATA = "F. Chollet, “Building powerful image classification models using very little data”"
_LITTLE_DATA_AUGMENTATION = {"shear": 0.2, "zoom": 0.2, "horizontal_flip": True}

TUNED = (
    Preset(
        name="mnist_tuned",
        title="Handwritten digits from scratch",
        description="The deep MNIST network of TensorFlow's first tutorial: 5 × 5 kernels, "  # noqa: RUF001
        "three dense layers, dropout. 28 × 28 images, which must not be mirrored.",  # noqa: RUF001
        accuracy="99%",
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
        accuracy="91 to 92%",
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
        accuracy="75 to 80%",
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
        accuracy="93.2 to 94.3%",
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
        accuracy="80% with 2,000 images",
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
        accuracy="90% with 2,000 images; 96.5% measured here with 600 others",
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
        accuracy="94% with 2,000 images",
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
        accuracy="95 to 99%",
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
