"""Random numbers of a training: pure functions of the seed and of the position in the training.

Nothing here keeps state, so an attempt after a crash draws what the interrupted one would have.
"""

import numpy as np
import numpy.typing as npt

from contracts.training.trainings import Phase

_PHASES: dict[Phase, int] = {"head": 0, "finetune": 1, "scratch": 2}
_SHUFFLE, _AUGMENT, _VIEW = range(3)


def epoch_order(count: int, seed: int, phase: Phase, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch goes through `count` images."""
    return _generator(seed, phase, epoch, _SHUFFLE).permutation(count)


def augmentation_rng(seed: int, phase: Phase, epoch: int) -> np.random.Generator:
    """The generator of an epoch's augmentation."""
    return _generator(seed, phase, epoch, _AUGMENT)


def choose_views(
    count: int, views: int, seed: int, phase: Phase, epoch: int
) -> npt.NDArray[np.int64]:
    """For each image, the cached view that an epoch trains on."""
    return _generator(seed, phase, epoch, _VIEW).integers(0, views, count)


def _generator(seed: int, phase: Phase, epoch: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, _PHASES[phase], epoch, purpose])
