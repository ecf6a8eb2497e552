"""What the endpoints of a version are called; known without loading Keras or TensorFlow."""

from contracts.manifest import Endpoint

GRID = "grid"

OUTPUTS: dict[Endpoint, str] = {
    "serve": "probabilities",
    "features": "embedding",
    "explain": GRID,
    "explain_hires": GRID,
}
"""What each endpoint calls its output, the one that is compared when it is exported."""

TARGET = "target"
PROBABILITY = "probability"
"""What the explaining endpoints give beside the grid. Versions made before lack them."""
