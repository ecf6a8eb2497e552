"""An exported version, loaded to evaluate it: predictions and heatmaps.

The mistakes of a training and the comparison for its promotion use the exported files, which are
what will be served, and not the network in memory.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from models.datasets.dataset import Example
from models.export.endpoints import OUTPUTS
from models.export.saved_model import SAVED_MODEL
from models.images.decode import decode
from models.images.resize import ImageInput
from models.serving.reference import EXPLAINED, VECTORS, Reference, top_classes


class ExportedModel:
    """The SavedModel of a version.

    Args:
        folder: The folder of the version, published or in staging.
    """

    def __init__(self, folder: Path) -> None:
        # The signatures hold their variables only weakly, so the loaded object must stay alive.
        self._loaded = tf.saved_model.load(str(folder / SAVED_MODEL))

    def probabilities(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Probabilities (n, classes) of images, uint8 (n, h, w, 3)."""
        return self._vector("serve", pixels)

    def grids(
        self, pixels: Pixels, classes: npt.NDArray[np.int32], endpoint: Endpoint = "explain"
    ) -> npt.NDArray[np.float32]:
        """Heatmap grids (n, gh, gw) in 0 to 1, one class for each image."""
        outputs = self._loaded.signatures[endpoint](
            images=tf.constant(pixels), class_index=tf.constant(classes, tf.int32)
        )
        grids: npt.NDArray[np.float32] = outputs[OUTPUTS[endpoint]].numpy()
        return grids

    def reference(self, images: Pixels, endpoints: Sequence[Endpoint]) -> Reference:
        """The outputs for images with which a runtime is compared whenever the version is loaded.

        Args:
            endpoints: Those of the version.
        """
        outputs = {name: self._vector(name, images) for name in VECTORS if name in endpoints}
        top = top_classes(outputs["serve"])
        for name in EXPLAINED:
            if name in endpoints:
                outputs[name] = self.grids(images, top, name)
        return Reference(images, outputs)

    def _vector(self, endpoint: Endpoint, pixels: Pixels) -> npt.NDArray[np.float32]:
        outputs = self._loaded.signatures[endpoint](images=tf.constant(pixels))
        vectors: npt.NDArray[np.float32] = outputs[OUTPUTS[endpoint]].numpy()
        return vectors


def decode_examples(examples: Sequence[Example], target: ImageInput, *, max_pixels: int) -> Pixels:
    """Decode images as a served request would: uint8 (n, h, w, 3).

    Raises:
        InvalidImage: An image cannot be decoded, perhaps because the dataset was changed.
    """
    return np.stack(
        [
            decode(example.read(), network=target, max_pixels=max_pixels).pixels
            for example in examples
        ]
    )
