"""From the options of `opsin train` to the fields of `POST /v1/trainings`."""

import json
from typing import Any

from cli.failure import CommandError
from contracts.trainings import Epochs

_NETWORK = "efficientnet_lite0"
_AUGMENTATION = {
    "rotation": 15,
    "width_shift": 0.1,
    "height_shift": 0.1,
    "zoom": 0.15,
    "horizontal_flip": True,
}


def wishes(
    options: str | None, *, augment: bool, epochs: int | None, **fields: Any
) -> dict[str, Any]:
    """The fields that were asked for, and no others: those left out are the preset's.

    Args:
        options: Further fields, as a JSON object.
        augment: Whether to vary pictures moderately.
        epochs: For each of the phases.
        fields: By their names in the API; None where not asked for.

    Raises:
        CommandError: The options are no JSON object.
    """
    asked = {name: value for name, value in fields.items() if value is not None}
    if epochs is not None:
        asked["epochs"] = dict.fromkeys(Epochs.model_fields, epochs)
    if augment:
        asked["augmentation"] = dict(_AUGMENTATION)
    if "preset" not in asked:
        asked.setdefault("network", _NETWORK)
    return asked | _object(options)


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise CommandError(f"--options is no JSON: {error}.", exit_code=2) from None
    if not isinstance(found, dict):
        raise CommandError("--options takes an object, e.g. '{\"l2\": 0.0001}'.", exit_code=2)
    return found
