"""Compares an exported graph with the Keras model that it was made from."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.inference.manifest import Endpoint, Parity
from contracts.queue.messages import Pixels
from models.export.endpoints import GRID, OUTPUTS
from models.export.signatures import EndpointFunction

PARITY_LIMIT = 1e-4


class ParityError(ValueError):
    """The exported graph gives different outputs than the Keras model."""


def parity(endpoints: dict[Endpoint, EndpointFunction], loaded: Any, images: Pixels) -> Parity:
    """The largest difference of each endpoint between Keras, run eagerly, and the exported files.

    For heatmaps it is that of the median image: a map with almost no evidence is scaled up like all
    others, and so are its rounding errors, so a single image proves nothing.

    Args:
        endpoints: Those of the Keras model.
        loaded: The exported files, loaded with `tf.saved_model.load`.
        images: Real images, uint8 (n, height, width, 3).

    Raises:
        ParityError: A difference exceeds `PARITY_LIMIT`.
    """
    batch = tf.constant(images)
    arguments = {"images": batch}
    if "serve" in endpoints:
        top = tf.argmax(endpoints["serve"].run(batch)["probabilities"], -1, tf.int32)
        arguments["class_index"] = top
    differences: dict[Endpoint, float] = {}
    for name, endpoint in endpoints.items():
        inputs = {spec.name: arguments[spec.name] for spec in endpoint.inputs}
        expected = endpoint.run(**inputs)[OUTPUTS[name]].numpy()
        actual = loaded.signatures[name](**inputs)[OUTPUTS[name]].numpy()
        differences[name] = (
            median_difference(expected, actual)
            if OUTPUTS[name] == GRID
            else largest_difference(expected, actual)
        )
    for name, difference in differences.items():
        if not difference <= PARITY_LIMIT:  # a NaN fails too
            raise ParityError(
                f"{name} of the exported graph differs by {difference:.2g} from the Keras model, "
                f"more than {PARITY_LIMIT:g}; nothing was published"
            )
    return Parity(pictures=len(images), largest_difference=differences)


def median_difference(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    """The median over images of the `largest_difference`; shapes (n, ...)."""
    return float(
        np.median([largest_difference(*pair) for pair in zip(expected, actual, strict=True)])
    )


def largest_difference(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    """Largest absolute difference, divided by the largest value if that is above 1.

    Probabilities and grids stay below 1; features reach hundreds, where 1e-4 is below the
    resolution of float32.
    """
    scale = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(expected - actual).max()) / scale
