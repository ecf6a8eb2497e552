"""Whose kernels `filters_layer` may ask for; known without TensorFlow, so asked at once."""

from contracts.errors import ValidationFailed
from contracts.trainings import TrainingRequest
from models.training.layer_names import convolutions_of, near


def check_filters(request: TrainingRequest) -> None:
    """Whether there is the convolution whose kernels are to be filmed.

    Raises:
        ValidationFailed: The network has no such convolution.
    """
    known, name = convolutions_of(request.network), request.filters_layer
    if name is None or name in known:
        return
    raise ValidationFailed(
        f"filters_layer: there is no convolution '{name[:64]}'.{near(name, known)} "
        f"Known: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}."
    )
