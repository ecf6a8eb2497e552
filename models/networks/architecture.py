"""The table of architectures: which function builds a network, and where its base ends."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import keras

from models.catalog import Network
from models.networks.cnn import cnn
from models.networks.efficientnet_lite import efficientnet_lite0
from models.networks.face_embedder import EMBEDDING, face_embedder
from models.networks.squeezenet import squeezenet
from models.networks.vgg import vgg


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a network is built.

    Attributes:
        build: Takes ``input_shape``, ``classes`` and ``include_top``.
        base_output: The layer whose averaged maps are the embedding, or which is the embedding.
    """

    build: Callable[..., keras.Model]
    base_output: str


ARCHITECTURES: dict[str, Architecture] = {
    "efficientnet_lite0": Architecture(efficientnet_lite0, "head_activation"),
    "squeezenet": Architecture(squeezenet, "fire9_concat"),
    "vgg16": Architecture(partial(vgg, "vgg16"), "block5_pool"),
    "vgg19": Architecture(partial(vgg, "vgg19"), "block5_pool"),
    # For images as small as 32 x 32, as trained on CIFAR-10.
    "vgg19_bn": Architecture(
        partial(vgg, "vgg19", batch_norm=True, weight_decay=5e-4), "block5_conv4_relu"
    ),
    "face_embedder": Architecture(face_embedder, EMBEDDING),
    "cnn_mnist": Architecture(partial(cnn, "cnn_mnist"), "pool2"),
    "cnn_small": Architecture(partial(cnn, "cnn_small"), "pool2"),
    "cnn_pets": Architecture(partial(cnn, "cnn_pets"), "pool2"),
    "cnn_face": Architecture(partial(cnn, "cnn_face"), "pool3"),
}


def build(
    network: Network,
    *,
    input_size: tuple[int, int] | None = None,
    classes: int | None = None,
    include_top: bool = True,
) -> keras.Model:
    """Build a catalog network with random weights, flat, without its preprocessing.

    Args:
        input_size: (height, width); by default that of the catalog row.
        classes: Size of the softmax; by default that of the catalog row.
        include_top: Whether the classifier follows the base.
    """
    return ARCHITECTURES[network.name].build(
        input_shape=(*(input_size or network.input_size), 3),
        classes=classes or network.classes,
        include_top=include_top,
    )
