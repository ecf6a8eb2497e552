"""The smallest pictures that a network takes; known without TensorFlow, so asked at once.

Each pooling halves a side, and after the last one a pixel must be left.
"""

from contracts.errors import ValidationFailed
from contracts.trainings import TrainableNetwork, TrainingRequest

SMALLEST: dict[TrainableNetwork, int] = {
    "squeezenet": 31,
    "vgg16": 32,
    "vgg19": 32,
    "vgg19_bn": 32,
}
"""Pixels of a side; the others take all that may be asked for."""


def check_picture_size(request: TrainingRequest) -> None:
    """Whether anything would be left of the pictures after the network's poolings.

    Raises:
        ValidationFailed: They are too small for it.
    """
    asked, least = request.image_size, SMALLEST.get(request.network, 0)
    if asked is None:
        return
    height, width = (asked, asked) if isinstance(asked, int) else asked
    if min(height, width) < least:
        raise ValidationFailed(
            f"image_size: {request.network} takes pictures of at least {least} x {least} pixels, "
            f"not {height} x {width}. Smaller ones are enlarged: leave image_size out, or send "
            f"{least} or more."
        )
