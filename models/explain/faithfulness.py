"""How far a heatmap is to be believed."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from contracts.explanation import Faithfulness
from contracts.messages import Pixels

Predict = Callable[[Pixels], npt.NDArray[np.float32]]


def faithfulness(
    predict: Predict, image: Pixels, grid: npt.NDArray[np.float32], target: int, steps: int = 32
) -> Faithfulness:
    """Deletion and insertion AUC; `predict`: uint8 (n, h, w, 3) to float32 (n, classes)."""
    raise NotImplementedError
