"""What the endpoints of a version are called; known without loading Keras or TensorFlow."""

from contracts.manifest import Endpoint

OUTPUTS: dict[Endpoint, str] = {
    "serve": "probabilities",
    "features": "embedding",
    "explain": "grid",
    "explain_hires": "grid",
}
"""What each endpoint calls its one output."""
