"""How many pictures make one step of a long computation, so that nobody waits long for its end.

A worker gives way between two steps. By work and not by a clock, so that the same question is cut
the same way every time and its answer is the same to the last bit.
"""

import math

import tensorflow as tf

from models.explain.flat import Flat, Step

STEP_WORK = 2.5e9
"""Multiplications of one pass forward in a step: 0.1 to 0.2 s on a core, with the way back."""


def step_size(flat: Flat, most: int) -> int:
    """Pictures a step, a power of two up to `most`; on a GPU, which is never long busy, `most`."""
    if tf.config.list_logical_devices("GPU"):
        return most
    fitting = min(most, STEP_WORK / max(1.0, work_of(flat)))
    return 1 << int(math.log2(max(1.0, fitting)))


def work_of(flat: Flat) -> float:
    """Multiplications of one picture's pass forward, in layers with kernels, about."""
    return float(sum(map(_work, flat.steps.values())))


def _work(step: Step) -> int:
    """Each value of a kernel is used once at every place of the output."""
    kernels = sum(math.prod(one.shape) for one in step.layer.weights if len(one.shape) > 1)
    return kernels * math.prod(side or 1 for side in step.output.shape[1:-1]) if kernels else 0
