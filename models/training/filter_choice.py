"""Whose kernels `filters_layer` may ask for; known without TensorFlow, so asked at once."""

import difflib

from contracts.errors import ValidationFailed
from contracts.trainings import TrainingRequest
from models.training.layer_names import convolutions_of


def check_filters(request: TrainingRequest) -> None:
    """Whether there is the convolution whose kernels are to be filmed.

    Raises:
        ValidationFailed: The network has no such convolution.
    """
    known, name = convolutions_of(request.network), request.filters_layer
    if name is None or name in known:
        return
    alike = difflib.get_close_matches(name, known, 3)
    nearest = f" Near it are {', '.join(alike)}." if alike else ""
    raise ValidationFailed(
        f"filters_layer: there is no convolution '{name[:64]}'.{nearest} "
        f"Known: {', '.join(known[:20])}{', …' if len(known) > 20 else ''}."
    )
