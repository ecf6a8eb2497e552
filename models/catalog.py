"""The networks that Opsin can serve, one row each: names and numbers only, nothing is loaded.

Resizing belongs to a network because it affects the accuracy (SqueezeNet loses nine points of
top-1 to nearest-neighbor resizing). So it is a column here and not a choice of the caller.
"""

from dataclasses import dataclass
from typing import Literal

from contracts.errors import ModelNotFound
from contracts.faces.faces import FACE_MODEL
from contracts.inference.manifest import Geometry
from contracts.queue import redis_keys

Preprocessing = Literal["caffe", "lite", "unit", "face"]

TRAINED = "trained"
"""Names the Celery queue shared by all models that are not in the catalog."""


@dataclass(frozen=True, slots=True)
class Network:
    """A catalog row.

    Attributes:
        name: The name in the API.
        title: The name for people, with its source.
        input_size: (height, width) of the input in pixels.
        short_side: The short side is resized to this many pixels before the center is cropped.
        preprocessing: ``caffe``: BGR minus the ImageNet means; ``lite``: (x - 127) / 128;
            ``unit``: x / 255, for networks trained from scratch; ``face``: RGB minus the means
            of faces, / 255.
        classes: Size of the output with the published weights; None for an embedder.
        features: Size of the embedding (pooled output of the base).
        explain_layer: The last convolution, whose feature maps explain a class best.
        weights: Name in ``weights.toml`` of the weights of the whole network.
        base_weights: Name of the weights of the base alone, if published.
        licence: SPDX name of the weights' licence.
        top1: Published top-1 accuracy on ImageNet's validation set, 0 to 1; None without classes.
        needs: Names in ``weights.toml`` of other files that the network needs.
        geometry: How an image becomes the input.
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
    geometry: Geometry = "short_side"


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
    """The Celery queue for a model: one per published network, one for all trained models.

    Trained models share a queue, so that a worker also serves models that are made while it runs.
    """
    return redis_keys.inference_queue(model if model in CATALOG else TRAINED)


def network_of(name: str) -> Network:
    """The catalog row of that name.

    Raises:
        ModelNotFound: There is no such network; the message lists the known ones.
    """
    try:
        return CATALOG[name]
    except KeyError:
        known = ", ".join(CATALOG)
        raise ModelNotFound(f"There is no model '{name[:64]}'. Known: {known}.") from None
