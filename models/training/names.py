"""Under which names a training may publish; known without TensorFlow, so asked before it queues."""

from contracts.errors import ValidationFailed
from models.catalog import CATALOG


def check_name(model: str) -> None:
    """Whether a training may publish under that name.

    Raises:
        ValidationFailed: It belongs to a published network, whose clients expect its own classes.
    """
    if model in CATALOG:
        raise ValidationFailed(
            f"'{model}' is the name of a published network, whose clients expect its own classes. "
            f"Choose another name for what you train, e.g. 'my-{model}'."
        )
