"""The names of the outputs of a version's endpoints.

Separate from `models.export.signatures` because an OpenVINO worker needs the names, but must not
import TensorFlow.
"""

from contracts.inference.manifest import Endpoint

GRID = "grid"

OUTPUTS: dict[Endpoint, str] = {
    "serve": "probabilities",
    "features": "embedding",
    "explain": GRID,
    "explain_hires": GRID,
}
"""The name of each endpoint's main output, which is compared when it is exported."""

TARGET = "target"
PROBABILITY = "probability"
"""Further outputs of the explain endpoints; older versions do not have them."""
