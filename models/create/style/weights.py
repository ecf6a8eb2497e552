"""Which weights a style transfer can use on this machine; known without TensorFlow."""

from contracts.create.requests import StyleNetwork
from models.weights.catalog import WeightFile, Weights, WeightsMissing

FAST_WEIGHTS = "style_fast"
"""Of `method=fast`."""
# In order of preference: the paper's, its smaller sister, and one whose weights are always at hand.
_WEIGHTS: dict[StyleNetwork, tuple[str, ...]] = {
    "vgg19": ("vgg19_notop",),
    "vgg16": ("vgg16_notop", "vgg16"),
    "squeezenet": ("squeezenet",),
}
MINIMUM_SIDES: dict[StyleNetwork, int] = {"vgg19": 16, "vgg16": 16, "squeezenet": 31}
"""Pixels of the shorter side that leave no map of the default layers empty."""


def available_network(weights: Weights, wanted: StyleNetwork | None = None) -> StyleNetwork:
    """The network to use: the wanted one, or the first whose weights are on this machine.

    Raises:
        WeightsMissing: There are none; says which command helps.
    """
    for network in _WEIGHTS:
        if wanted in {None, network}:
            try:
                weight_file(weights, network)
            except WeightsMissing:
                continue
            return network
    weight_file(weights, wanted or "vgg16")  # raises what helps
    return wanted or "vgg16"


def weight_file(weights: Weights, network: StyleNetwork) -> WeightFile:
    """The weights of a network's base.

    Raises:
        WeightsMissing: They are not on this machine.
    """
    first, *others = _WEIGHTS[network]
    for name in others:
        try:
            return weights.find(first)
        except WeightsMissing:
            first = name
    return weights.find(first)
