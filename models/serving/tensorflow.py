"""A version run by TensorFlow: the reference, and what a GPU is used through."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from models.export.signatures import OUTPUTS
from models.serving.batching import Outputs
from models.serving.devices import prepare_tensorflow
from models.serving.runtime import RuntimeOptions


class TensorFlowRuntime:
    """A SavedModel, loaded by TensorFlow.

    Args:
        folder: The version's.
        options: Threads and XLA. The first call of a process decides on the threads.
    """

    name = "tensorflow-float32"
    pads = True

    def __init__(self, folder: Path, options: RuntimeOptions) -> None:
        prepare_tensorflow(options.threads)
        # Kept alive beside its signatures, which hold its variables only weakly.
        self._loaded = tf.saved_model.load(str(folder / "saved_model"))
        self._functions = dict(self._loaded.signatures)
        if options.xla:
            self.name = "tensorflow-xla-float32"
            self._functions = {
                name: tf.function(function, jit_compile=True)
                for name, function in self._functions.items()
            }

    def run(self, endpoint: Endpoint, images: Pixels) -> Outputs:
        """See `Runtime`."""
        told = self._functions[endpoint](images=tf.constant(images))
        answer: Outputs = told[OUTPUTS[endpoint]].numpy()
        return answer

    def explain(
        self, endpoint: Endpoint, images: Pixels, classes: npt.NDArray[np.int32]
    ) -> dict[str, npt.NDArray[Any]]:
        """All that the endpoint tells of the class asked for of each picture, by name."""
        given = {"images": tf.constant(images), "class_index": tf.constant(classes)}
        return {name: told.numpy() for name, told in self._functions[endpoint](**given).items()}

    def tune(self, endpoint: Endpoint, sizes: Sequence[int]) -> None:
        """Nothing: TensorFlow splits each operator over its threads whatever the batch."""
