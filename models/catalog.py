"""The networks Opsin can serve, one row each. Knows names and numbers only; loads nothing.

Resizing belongs to a network: how a picture becomes the input decides the accuracy (SqueezeNet
loses nine points of top-1 to nearest-neighbour resizing), so it is a column here and not a habit
of the caller.
"""

from dataclasses import dataclass
from typing import Literal

from contracts.errors import ModelNotFound
from contracts.faces.faces import FACE_MODEL
from contracts.queue import redis_keys

Preprocessing = Literal["caffe", "lite", "unit", "face"]

TRAINED = "trained"
"""Whose queue it is that all models share which are in no row here."""


@dataclass(frozen=True, slots=True)
class Network:
    """A catalog row.

    Attributes:
        name: What clients call it.
        title: What people call it, with its source.
        input_size: (height, width) of the input in pixels.
        short_side: The short side is resized to this many pixels before the centre is cropped.
        preprocessing: ``caffe``: BGR minus the ImageNet means; ``lite``: (x - 127) / 128;
            ``unit``: x / 255, for what is trained from scratch; ``face``: RGB minus the means
            of faces, / 255.
        classes: Size of the output with the published weights; None for what only embeds.
        features: Size of the embedding (pooled output of the base).
        explain_layer: The last convolution, whose maps explain a class best.
        weights: Name in ``weights.toml`` of the whole network.
        base_weights: Name of the base alone, without the classifier, where that can be had.
        licence: SPDX name of the weights' licence.
        top1: Published top-1 accuracy on ImageNet's validation set, 0 to 1; None if it has no
            classes.
        needs: Names in ``weights.toml`` of what it is of no use without.
    """

    name: str
    title: str
    input_size: tuple[int, int]
    short_side: int
    preprocessing: Preprocessing
    classes: int | None
    features: int
    explain_layer: str
    weights: str
    base_weights: str | None
    licence: str
    top1: float | None
    needs: tuple[str, ...] = ()


CATALOG: dict[str, Network] = {
    row.name: row
    for row in (
        Network(
            name="efficientnet_lite0",
            title="EfficientNet-Lite0 (Google, 2020; after Tan and Le, 2019)",
            input_size=(224, 224),
            short_side=256,
            preprocessing="lite",
            classes=1000,
            features=1280,
            explain_layer="head_activation",
            weights="efficientnet_lite0",
            base_weights=None,
            licence="Apache-2.0",
            top1=0.751,
        ),
        Network(
            name="squeezenet",
            title="SqueezeNet 1.1 (Iandola et al., 2016)",
            input_size=(227, 227),
            short_side=256,
            preprocessing="caffe",
            classes=1000,
            features=512,
            explain_layer="fire9_concat",
            weights="squeezenet",
            base_weights=None,
            licence="BSD-3-Clause",
            top1=0.582,
        ),
        Network(
            name="vgg16",
            title="VGG16 (Simonyan and Zisserman, 2014)",
            input_size=(224, 224),
            short_side=256,
            preprocessing="caffe",
            classes=1000,
            features=512,
            explain_layer="block5_conv3",
            weights="vgg16",
            base_weights="vgg16_notop",
            licence="CC-BY-4.0",
            top1=0.713,
        ),
        Network(
            name=FACE_MODEL,
            title="Face embedder (King, 2017: dlib's ResNet)",
            input_size=(150, 150),
            short_side=150,
            preprocessing="face",
            classes=None,
            features=128,
            explain_layer="conv256_down_out",
            weights="face_embedder",
            base_weights=None,
            licence="CC0-1.0",
            top1=None,
            needs=("face_finder",),
        ),
    )
}


def queue_of(model: str) -> str:
    """The Celery queue of a model's lanes: one a published network, one for all that was trained.

    So a worker hears of a model that is made while it runs.
    """
    return redis_keys.inference_queue(model if model in CATALOG else TRAINED)


def network_of(name: str) -> Network:
    """The row of that name.

    Raises:
        ModelNotFound: No network is called so; the message lists those there are.
    """
    try:
        return CATALOG[name]
    except KeyError:
        known = ", ".join(CATALOG)
        raise ModelNotFound(f"There is no model '{name[:64]}'. Known: {known}.") from None
