"""L-BFGS and Adam, run in blocks of a given number of evaluations.

Between two blocks the state is a few arrays, so a job that was killed continues with exactly the
numbers that it would have had. SciPy's L-BFGS keeps no state that could be stored; it starts over
in each block, as in the classic Keras tutorial, which ran ten times twenty evaluations.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from contracts.create.requests import Optimizer

Array = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
Evaluate = Callable[[Array], tuple[float, Array]]
"""From an image to its loss and gradient; may raise to stop."""

_MEMORY = 10  # pairs of vectors from which L-BFGS estimates the curvature
_FIRST_STEP = 4.0  # levels, on average over pixels


class Descent(Protocol):
    """A method of descent."""

    def run(self, image: Array, evaluate: Evaluate, evaluations: int) -> Array:
        """The image after that many evaluations of loss and gradient, or fewer at a minimum."""
        ...

    def state(self) -> Arrays:
        """What `restore` needs to continue."""
        ...

    def restore(self, state: Arrays) -> None: ...


class _BudgetSpentError(Exception):
    """All evaluations of a block were made."""


class Lbfgs:
    """SciPy's L-BFGS-B without bounds (Zhu, Byrd, Lu and Nocedal, 1997)."""

    def run(self, image: Array, evaluate: Evaluate, evaluations: int) -> Array:
        """See `Descent`. The result is the best image that was evaluated."""
        # Its first step has length 1, so its unit is chosen such that this changes the image.
        unit = _FIRST_STEP * float(np.sqrt(image.size))
        best, lowest, spent = image, np.inf, 0

        def scaled(x: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            nonlocal best, lowest, spent
            if spent == evaluations:
                raise _BudgetSpentError
            candidate = (x * unit).astype(np.float32).reshape(image.shape)
            loss, gradient = evaluate(candidate)
            spent += 1
            if loss < lowest:
                best, lowest = candidate, loss
            return loss, gradient.ravel().astype(np.float64) * unit

        options: dict[str, float] = {
            "maxcor": _MEMORY,
            "maxiter": evaluations,
            "maxfun": evaluations + 1,
        }
        options |= {"ftol": 0.0, "gtol": 0.0}
        start = image.ravel().astype(np.float64) / unit
        with contextlib.suppress(_BudgetSpentError):
            minimize(scaled, start, method="L-BFGS-B", jac=True, options=options)
        return best

    def state(self) -> Arrays:
        """Nothing: each block starts over."""
        return {}

    def restore(self, state: Arrays) -> None:
        """See `state`."""


class Adam:
    """Adam (Kingma and Ba, 2014, arXiv:1412.6980) on the pixels.

    Args:
        learning_rate: In levels of 0 to 255.
    """

    _BETAS, _EPSILON = (0.9, 0.99), 1e-8

    def __init__(self, learning_rate: float) -> None:
        self._rate = learning_rate
        self._steps = 0
        self._first: Array | None = None
        self._second: Array | None = None

    def run(self, image: Array, evaluate: Evaluate, evaluations: int) -> Array:
        """See `Descent`. It starts over when the image's size changes."""
        if self._first is None or self._second is None or self._first.shape != image.shape:
            self._steps, self._first, self._second = 0, np.zeros_like(image), np.zeros_like(image)
        beta1, beta2 = self._BETAS
        for _ in range(evaluations):
            _, gradient = evaluate(image)
            self._steps += 1
            self._first = beta1 * self._first + (1 - beta1) * gradient
            self._second = beta2 * self._second + (1 - beta2) * gradient**2
            mean = self._first / np.float32(1 - beta1**self._steps)
            square = self._second / np.float32(1 - beta2**self._steps)
            step = np.float32(self._rate) * mean / (np.sqrt(square) + np.float32(self._EPSILON))
            image = np.clip(image - step, 0, 255).astype(np.float32)
        return image

    def state(self) -> Arrays:
        if self._first is None or self._second is None:
            return {}
        return {"steps": np.array(self._steps), "first": self._first, "second": self._second}

    def restore(self, state: Arrays) -> None:
        if state:
            self._steps = int(state["steps"])
            self._first, self._second = state["first"], state["second"]


def descent_of(optimizer: Optimizer, learning_rate: float) -> Descent:
    """A new method of that name."""
    return Lbfgs() if optimizer == "lbfgs" else Adam(learning_rate)
