"""All chance of a training, each a pure function of the seed and of where in the training it falls.

Nothing here remembers anything: after a crash the next attempt draws what the last one would have.
"""

import numpy as np
import numpy.typing as npt

from contracts.training.trainings import Phase

_PHASES: dict[Phase, int] = {"head": 0, "finetune": 1, "scratch": 2}
_SHUFFLE, _AUGMENT, _VIEW = range(3)


def shuffled(count: int, seed: int, phase: Phase, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which an epoch goes through `count` pictures."""
    return _chance(seed, phase, epoch, _SHUFFLE).permutation(count)


def augmentation_chance(seed: int, phase: Phase, epoch: int) -> np.random.Generator:
    """What an epoch's variations of the pictures are drawn from."""
    return _chance(seed, phase, epoch, _AUGMENT)


def chosen_views(
    count: int, views: int, seed: int, phase: Phase, epoch: int
) -> npt.NDArray[np.int64]:
    """Which of its remembered views each picture shows in an epoch."""
    return _chance(seed, phase, epoch, _VIEW).integers(0, views, count)


def _chance(seed: int, phase: Phase, epoch: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, _PHASES[phase], epoch, purpose])
