"""What a network's layers are called and what comes out of each."""

from contracts.explanation import LayerInfo
from models.explain.flat import Flat, Step


def layers_of(flat: Flat) -> tuple[LayerInfo, ...]:
    """Every layer in the order of the pass forward, without the input."""
    return tuple(_info(name, step) for name, step in flat.steps.items())


def _info(name: str, step: Step) -> LayerInfo:
    return LayerInfo(
        name=name,
        type=type(step.layer).__name__,
        output_shape=list(getattr(step.output, "shape", (None,)))[1:],
        explainable=step.has_maps,
    )
