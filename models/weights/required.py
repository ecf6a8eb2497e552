"""Whether the published weights of a network are here, found out without loading TensorFlow."""

from models.catalog import Network
from models.weights.catalog import Weights, WeightsMissing


def require_catalog_weights(network: Network, weights: Weights) -> None:
    """Check that a training can start from them; fast once a file has been hashed.

    Raises:
        WeightsMissing: Neither those of the whole network nor those of its base are here.
    """
    try:
        weights.find(network.weights)
    except WeightsMissing as missing:
        if network.base_weights is None:
            raise
        try:
            weights.find(network.base_weights)
        except WeightsMissing:
            raise missing from None
