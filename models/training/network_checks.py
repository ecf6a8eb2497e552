"""What a request may ask of its network; known without TensorFlow, so asked before it queues."""

from contracts.trainings import TrainingRequest
from models.training.filter_choice import check_filters
from models.training.smallest import check_picture_size
from models.training.unfreezing import check_unfreezing


def check_network(request: TrainingRequest) -> None:
    """Whether the network has the layers, and takes the pictures, that are asked for.

    Raises:
        ValidationFailed: It does not; says what it has.
    """
    check_unfreezing(request)
    check_picture_size(request)
    check_filters(request)
