"""How each network is trained unless asked otherwise: its size, its scaling, its last block."""

from dataclasses import dataclass

from contracts.training.trainings import TrainableNetwork, TrainingRequest
from models.catalog import CATALOG, Preprocessing
from models.export.signatures import Blueprint
from models.networks.architecture import ARCHITECTURES


@dataclass(frozen=True, slots=True)
class Recipe:
    """A trainable network's row.

    Attributes:
        input_size: (height, width) in pixels unless another is asked for.
        explain_layer: The last convolution, whose maps explain a class.
        last_block: What fine-tuning unfreezes unless told; None without published weights.
    """

    input_size: tuple[int, int]
    explain_layer: str
    last_block: str | None = None


RECIPES: dict[TrainableNetwork, Recipe] = {
    "efficientnet_lite0": Recipe((224, 224), "head_activation", "block6"),
    "squeezenet": Recipe((227, 227), "fire9_concat", "fire8"),
    "vgg16": Recipe((224, 224), "block5_conv3", "block5"),
    "vgg19": Recipe((224, 224), "block5_conv4"),
    "vgg19_bn": Recipe((32, 32), "block5_conv4_relu"),
    "cnn_mnist": Recipe((28, 28), "conv2"),
    "cnn_small": Recipe((28, 28), "conv2"),
    "cnn_pets": Recipe((64, 64), "conv4"),
    "cnn_face": Recipe((70, 50), "conv3"),
}


def input_size_of(request: TrainingRequest) -> tuple[int, int]:
    """(height, width) in pixels of what the network will take."""
    size = request.image_size
    if size is None:
        return RECIPES[request.network].input_size
    return (size, size) if isinstance(size, int) else size


def blueprint_of(request: TrainingRequest) -> Blueprint:
    """What will have to be known of the trained network besides its weights.

    Of each picture the largest centred part is seen that has the input's shape: no margin is cut
    off as ImageNet's protocol has it, for nobody's own pictures are framed by that protocol.
    """
    return Blueprint(
        network=request.network,
        short_side=max(input_size_of(request)),
        preprocessing=_preprocessing(request),
        base_output=ARCHITECTURES[request.network].base_output,
        explain_layer=RECIPES[request.network].explain_layer,
    )


def _preprocessing(request: TrainingRequest) -> Preprocessing:
    """What the published weights were trained on; without them, 0 to 1."""
    if request.strategy == "from_scratch":
        return "unit"
    return CATALOG[request.network].preprocessing
