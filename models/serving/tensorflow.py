"""Runs a version by TensorFlow: the reference runtime, and the one for GPUs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.inference.manifest import Endpoint
from contracts.queue.messages import Pixels
from models.export.endpoints import OUTPUTS
from models.serving.batching import Outputs
from models.serving.devices import prepare_tensorflow
from models.serving.runtime import RuntimeOptions, has_gpu


class TensorFlowRuntime:
    """A SavedModel, loaded by TensorFlow.

    Args:
        folder: The version's.
        options: Threads and XLA. The first call in a process sets the number of threads.
    """

    name = "tensorflow-float32"
    pads = True
    base = None
    parallel_batches = 1

    def __init__(self, folder: Path, options: RuntimeOptions) -> None:
        prepare_tensorflow(options.threads)
        # A GPU waits while images are stacked and answers unpacked; processors do that work.
        self.prepares = has_gpu()
        # Kept alive because its signatures hold its variables only weakly.
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
        tensors = self._functions[endpoint](images=tf.constant(images))
        outputs: Outputs = tensors[OUTPUTS[endpoint]].numpy()
        return outputs

    def answers(self, endpoints: Sequence[Endpoint], images: Pixels) -> dict[Endpoint, Outputs]:
        """See `Runtime`."""
        return {endpoint: self.run(endpoint, images) for endpoint in endpoints}

    def finish(self, endpoint: Endpoint, base_output: npt.NDArray[np.float32]) -> Outputs:
        """Not supported: TensorFlow runs a version undivided."""
        raise NotImplementedError(f"{endpoint} has no base of its own")

    def explain(
        self, endpoint: Endpoint, images: Pixels, classes: npt.NDArray[np.int32]
    ) -> dict[str, npt.NDArray[Any]]:
        """All outputs of the endpoint for the given class of each image, by name."""
        inputs = {"images": tf.constant(images), "class_index": tf.constant(classes)}
        outputs = self._functions[endpoint](**inputs)
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def parallelize(self) -> None:
        """Does nothing: TensorFlow splits each operator over its threads for any batch."""
