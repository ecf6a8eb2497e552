"""The defaults of each trainable network: input size, preprocessing, last block.

Importing it needs no TensorFlow, since the costs of a training are estimated while that loads.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from contracts.training.trainings import TrainableNetwork, TrainingRequest
from models.catalog import CATALOG, Preprocessing

if TYPE_CHECKING:
    from models.export.signatures import Blueprint


@dataclass(frozen=True, slots=True)
class NetworkDefaults:
    """The defaults of one network.

    Attributes:
        input_size: (height, width) in pixels.
        explain_layer: The last convolution, whose feature maps heatmaps are made of.
        last_block: What fine-tuning unfreezes; None without published weights.
    """

    input_size: tuple[int, int]
    explain_layer: str
    last_block: str | None = None


NETWORK_DEFAULTS: dict[TrainableNetwork, NetworkDefaults] = {
    "efficientnet_lite0": NetworkDefaults((224, 224), "head_activation", "block6"),
    "squeezenet": NetworkDefaults((227, 227), "fire9_concat", "fire8"),
    "vgg16": NetworkDefaults((224, 224), "block5_conv3", "block5"),
    "vgg19": NetworkDefaults((224, 224), "block5_conv4"),
    "vgg19_bn": NetworkDefaults((32, 32), "block5_conv4_relu"),
    "cnn_mnist": NetworkDefaults((28, 28), "conv2"),
    "cnn_small": NetworkDefaults((28, 28), "conv2"),
    "cnn_pets": NetworkDefaults((64, 64), "conv4"),
    "cnn_face": NetworkDefaults((70, 50), "conv3"),
}


def input_size_of(request: TrainingRequest) -> tuple[int, int]:
    """(height, width) of the network's input in pixels."""
    size = request.image_size
    if size is None:
        return NETWORK_DEFAULTS[request.network].input_size
    return (size, size) if isinstance(size, int) else size


def channels_of(request: TrainingRequest) -> int:
    """Channels of the network's input."""
    return 1 if request.color_mode == "grayscale" else 3


def blueprint_of(request: TrainingRequest) -> "Blueprint":
    """What an export has to know of the trained network besides its weights.

    The network sees the largest centered crop that has the shape of its input, or with
    ``"resize": "squash"`` the whole image. ImageNet's protocol would cut off a margin as well, but
    users' images are not framed for that protocol.
    """
    from models.export.signatures import Blueprint  # TensorFlow
    from models.networks.architecture import ARCHITECTURES

    return Blueprint(
        network=request.network,
        short_side=max(input_size_of(request)),
        geometry="squash" if request.resize == "squash" else "cover",
        preprocessing=_preprocessing(request),
        base_output=ARCHITECTURES[request.network].base_output,
        explain_layer=NETWORK_DEFAULTS[request.network].explain_layer,
    )


def _preprocessing(request: TrainingRequest) -> Preprocessing:
    """The preprocessing of the published weights; without them, values from 0 to 1."""
    if request.strategy == "from_scratch":
        return "unit"
    return CATALOG[request.network].preprocessing
