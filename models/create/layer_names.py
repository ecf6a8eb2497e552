"""The layers that a request may name, checked without TensorFlow, and their names in papers."""

import re
from typing import cast, get_args

from contracts.errors import LayerNotFound
from contracts.suggestions import similar
from contracts.training.trainings import TrainableNetwork
from models.training.layer_names import layer_names

_PAPER = re.compile(r"^(?:conv|relu)([1-5])_([1-4])$|^pool([1-5])$")
"""A VGG layer in papers and in Caffe: ``conv4_2``, with its activation as in ``relu4_2``."""


def required_layer(network: str, name: str) -> str:
    """The layer's name in a network's base; as it is for a network that is not trained here.

    Raises:
        LayerNotFound: There is no such layer; says which are similar.
    """
    if network not in get_args(TrainableNetwork):
        return name
    known = layer_names(cast("TrainableNetwork", network))[1:]  # the first one is the image
    if name in known:
        return name
    if (translated := _translated(name)) in known:
        return translated
    advice = similar(name[:64], known) or f" They go from '{known[0]}' to '{known[-1]}'."
    raise LayerNotFound(f"{network} has no layer '{name[:64]}'.{advice}")


def _translated(name: str) -> str:
    found = _PAPER.match(name)
    if found is None:
        return name
    return f"block{found[3]}_pool" if found[3] else f"block{found[1]}_conv{found[2]}"
