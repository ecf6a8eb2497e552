"""An exported version as a training looks at it: what it will answer, and where it looks.

What is shown of a training and compared for its promotion comes from the files that are served,
not from the network in memory that they were made from.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.queue.messages import Pixels
from models.datasets.dataset import Example
from models.export.saved_model import SAVED_MODEL
from models.export.signatures import OUTPUTS
from models.images.decode import Target, decode


class Exported:
    """The SavedModel of a version.

    Args:
        folder: The version's, published or still in staging.
    """

    def __init__(self, folder: Path) -> None:
        # Kept beside its signatures, which hold its variables only weakly.
        self._loaded = tf.saved_model.load(str(folder / SAVED_MODEL))

    def probabilities(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """What it says of pictures, uint8 (n, h, w, 3): (n, classes)."""
        answer = self._loaded.signatures["serve"](images=tf.constant(pixels))
        found: npt.NDArray[np.float32] = answer[OUTPUTS["serve"]].numpy()
        return found

    def grids(self, pixels: Pixels, classes: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Where it sees those classes in them: (n, gh, gw) in 0..1."""
        answer = self._loaded.signatures["explain"](
            images=tf.constant(pixels), class_index=tf.constant(classes, tf.int32)
        )
        found: npt.NDArray[np.float32] = answer[OUTPUTS["explain"]].numpy()
        return found


def decoded(examples: Sequence[Example], target: Target, *, max_pixels: int) -> Pixels:
    """Pictures as a served request would bring them: uint8 (n, h, w, 3).

    Raises:
        InvalidImage: One cannot be read; was the dataset changed meanwhile?
    """
    return np.stack(
        [decode(one.read(), network=target, max_pixels=max_pixels).pixels for one in examples]
    )
