"""A TensorFlow Lite graph run by LiteRT: one picture in, arrays out."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class LiteGraph:
    """One graph. Not safe among threads.

    Args:
        file: A checked ``.tflite`` file with one input of one square picture.
        threads: To compute with.

    Attributes:
        size: Side of its input in pixels.
    """

    def __init__(self, file: Path, *, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter  # a native library

        self._interpreter: Any = Interpreter(model_path=str(file), num_threads=threads)
        self._interpreter.allocate_tensors()
        (given,) = self._interpreter.get_input_details()
        self._input = given["index"]
        self.size = int(given["shape"][1])
        self._outputs = [one["index"] for one in self._interpreter.get_output_details()]

    def __call__(self, picture: Array) -> list[Array]:
        """The outputs for one picture, each without the batch, the caller's own.

        Args:
            picture: float32 (size, size, 3), in the range the graph was trained on.
        """
        self._interpreter.set_tensor(self._input, picture[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index)[0] for index in self._outputs]
