"""Whether a version's maps follow its weights, or would look the same without them.

The cascading randomisation of Adebayo et al. (2018, "Sanity Checks for Saliency Maps",
arXiv:1810.03292, section 3.1): from the output down, layer after layer loses what it learnt, and
the map is compared with the one before. A map that does not change was never about the network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contracts.inference.explanation import Method, Sanity
from contracts.queue.messages import Pixels
from models.explain.layer_graph import Flat
from models.export.signatures import OUTPUTS, TARGET

METHOD: Method = "grad_cam"
LIMIT = 0.5
"""Rank correlation, all layers being random, from which maps are not of the weights."""

_STAGES = 8
_PICTURES = 3
_Grids = npt.NDArray[np.float32]
_Layer = tuple[str, Sequence[Any]]


def sanity(model: keras.Model, loaded: Any, layer: str, pictures: Pixels) -> Sanity:
    """Check a classifier's Grad-CAM on a copy of it: its SavedModel, loaded.

    That copy is at hand where a version is made, and traced: a check costs a few batches. A layer
    loses what it learnt by having its values put in another order: so they stay as large as they
    were, and signals neither die nor explode on the way. The order is drawn from a fixed seed.

    Args:
        model: The network that was exported; only looked at.
        loaded: What `tf.saved_model.load` made of it. Worth nothing afterwards.
        layer: The layer whose maps are weighed.
        pictures: Real ones of its input size, uint8 (n, h, w, 3), at least one.
    """
    explain = loaded.signatures["explain"]
    weighted = _weighted(model, {one.name: one for one in explain.variables})[::-1]
    images = tf.constant(pictures[:_PICTURES])
    top = tf.fill((len(images),), np.int32(-1))
    first = explain(images=images, class_index=top)
    before, random, found = first[OUTPUTS["explain"]].numpy(), np.random.default_rng(0), {}
    for stage in np.array_split(np.arange(len(weighted)), min(_STAGES, len(weighted))):
        for at in stage:
            _forget(weighted[at][1], random)
        after = explain(images=images, class_index=first[TARGET])[OUTPUTS["explain"]].numpy()
        pairs = zip(before, after, strict=True)
        found[weighted[stage[-1]][0]] = float(np.mean([rank_correlation(*p) for p in pairs]))
    last = list(found.values())[-1]
    return Sanity(
        method=METHOD,
        layer=layer,
        pictures=len(images),
        rank_correlation={name: round(value, 4) for name, value in found.items()},
        passed=abs(last) < LIMIT,
    )


def _weighted(model: keras.Model, variables: Mapping[str, Any]) -> list[_Layer]:
    """The layers that learn, in the order of the pass forward, with the copy's variables."""
    layers = [step.layer for step in Flat.of(model).steps.values()]
    copies = [
        (
            layer.name,
            [variables[name] for one in layer.weights if (name := one.value.name) in variables],
        )
        for layer in layers
    ]
    return [(name, found) for name, found in copies if found]


def rank_correlation(one: _Grids, other: _Grids) -> float:
    """Spearman's, of two maps of the same shape: -1 to 1; 0 where one of them is flat."""
    a, b = (_ranks(grid.ravel()) for grid in (one, other))
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _ranks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Places in ascending order; equal values share the middle of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _forget(variables: Sequence[Any], random: np.random.Generator) -> None:
    for one in variables:
        values = one.numpy()
        one.assign(random.permutation(values.ravel()).reshape(values.shape))
