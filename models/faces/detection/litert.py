"""Runs a TensorFlow Lite graph with LiteRT: one square image in, arrays out."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class LiteGraph:
    """One graph. Not thread-safe.

    Args:
        file: A verified ``.tflite`` file whose one input is a square image.

    Attributes:
        size: Side of its input in pixels.
    """

    def __init__(self, file: Path, *, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter  # a native library

        self._interpreter: Any = Interpreter(model_path=str(file), num_threads=threads)
        self._interpreter.allocate_tensors()
        (details,) = self._interpreter.get_input_details()
        self._input = details["index"]
        self.size = int(details["shape"][1])
        self._outputs = [output["index"] for output in self._interpreter.get_output_details()]

    def __call__(self, image: Array) -> list[Array]:
        """Copies of the outputs for one image, without the batch axis.

        Args:
            image: float32 (size, size, 3), in the range that the graph was trained on.
        """
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index)[0] for index in self._outputs]
