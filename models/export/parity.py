"""Whether an exported graph answers as the Keras model that it was made from."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.inference.manifest import Endpoint, Parity
from contracts.queue.messages import Pixels
from models.export.signatures import GRID, OUTPUTS, Signature

PARITY_LIMIT = 1e-4


class ParityError(ValueError):
    """The exported graph does not answer as the Keras model does."""


def parity(endpoints: dict[Endpoint, Signature], loaded: Any, pictures: Pixels) -> Parity:
    """The largest difference of each endpoint between Keras, run eagerly, and the files.

    Of maps it is that of the median picture: a map of next to no evidence is scaled up to one like
    all others, and its rounding with it, so that a single picture proves nothing.

    Args:
        endpoints: Of the Keras model.
        loaded: What `tf.saved_model.load` made of the files written from them.
        pictures: Real ones, uint8 (n, height, width, 3).

    Raises:
        ParityError: One is above `PARITY_LIMIT`.
    """
    images = tf.constant(pictures)
    arguments = {"images": images}
    if "serve" in endpoints:
        top = tf.argmax(endpoints["serve"].run(images)["probabilities"], -1, tf.int32)
        arguments["class_index"] = top
    differences: dict[Endpoint, float] = {}
    for name, endpoint in endpoints.items():
        given = {spec.name: arguments[spec.name] for spec in endpoint.inputs}
        expected = endpoint.run(**given)[OUTPUTS[name]].numpy()
        found = loaded.signatures[name](**given)[OUTPUTS[name]].numpy()
        differences[name] = (
            median_difference(expected, found)
            if OUTPUTS[name] == GRID
            else largest_difference(expected, found)
        )
    for name, difference in differences.items():
        if not difference <= PARITY_LIMIT:  # a NaN fails too
            raise ParityError(
                f"{name} of the exported graph differs by {difference:.2g} from the Keras model, "
                f"more than {PARITY_LIMIT:g}; nothing was published"
            )
    return Parity(pictures=len(pictures), largest_difference=differences)


def median_difference(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """The `largest_difference` of the median picture, (n, ...) each."""
    return float(
        np.median([largest_difference(*pair) for pair in zip(expected, found, strict=True)])
    )


def largest_difference(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    """Largest absolute difference, in units of the largest value where that is above 1.

    Probabilities and grids stay below 1; features reach hundreds, where 1e-4 is below what
    float32 can tell apart.
    """
    scale = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(expected - found).max()) / scale
