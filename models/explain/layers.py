"""`layers.json` of a version: its layers and their output shapes, known without loading Keras."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from contracts.errors import LayerNotFound, ValidationFailed
from contracts.inference.explanation import LayerInfo
from contracts.suggestions import similar

LAYERS = "layers.json"
_MAX_LISTED = 12

_ADAPTER = TypeAdapter(tuple[LayerInfo, ...])


def write_layers(folder: Path, layers: Iterable[LayerInfo]) -> None:
    """Write the file into the folder of a version that is being made."""
    (folder / LAYERS).write_bytes(_ADAPTER.dump_json(tuple(layers), indent=1))


def read_layers(folder: Path) -> tuple[LayerInfo, ...]:
    """The layers of the version in `folder`, in the order of the forward pass.

    Raises:
        FileNotFoundError: The version was made by a release without this file.
    """
    return _ADAPTER.validate_json((folder / LAYERS).read_bytes())


def _listed(usable: Sequence[str]) -> str:
    """Which layers have maps: all their names if they are few, otherwise where to find them."""
    if len(usable) <= _MAX_LISTED:
        return f"With maps: {', '.join(usable) or 'none'}."
    return (
        f"{len(usable)} layers have maps, the last of them is '{usable[-1]}'. "
        "`GET /v1/models/{model}/layers` and `opsin layers MODEL` list them."
    )


def explainable_layer(layers: Iterable[LayerInfo], name: str) -> LayerInfo:
    """The layer of that name.

    Raises:
        LayerNotFound: There is none; the message names similar ones.
        ValidationFailed: It has no maps.
    """
    known = {layer.name: layer for layer in layers}
    usable = [layer.name for layer in known.values() if layer.explainable]
    listed = _listed(usable)
    if name not in known:
        raise LayerNotFound(
            f"The network has no layer '{name[:64]}'.{similar(name[:64], usable)} {listed}"
        )
    if not known[name].explainable:
        raise ValidationFailed(
            f"Layer '{name}' has no maps to look at.{similar(name, usable)} {listed}"
        )
    return known[name]


def require_filters(layer: LayerInfo, filters: Sequence[int]) -> None:
    """Check that the layer has all these filters.

    Raises:
        ValidationFailed: It lacks one of them.
    """
    count = layer.output_shape[-1]
    if count is not None and any(not 0 <= index < count for index in filters):
        raise ValidationFailed(
            f"filters: layer '{layer.name}' has {count}, numbered 0 to {count - 1}."
        )
