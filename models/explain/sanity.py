"""Whether a version's maps follow its weights, or would look the same without them.

The cascading randomisation of Adebayo et al. (2018, "Sanity Checks for Saliency Maps",
arXiv:1810.03292, section 3.1): from the output down, layer after layer loses what it learnt, and
the map is compared with the one before. A map that does not change was never about the network.
"""

import keras
import numpy as np
import numpy.typing as npt

from contracts.explanation import Method, Sanity
from contracts.messages import Pixels
from models.catalog import Preprocessing
from models.explain.probe import Probe

METHOD: Method = "grad_cam"
LIMIT = 0.5
"""Rank correlation, all layers being random, from which maps are not of the weights."""

_STAGES = 8
_PICTURES = 3
_Grids = npt.NDArray[np.float32]


def sanity(
    model: keras.Model,
    preprocessing: Preprocessing,
    layer: str,
    pictures: Pixels,
    *,
    method: Method = METHOD,
    seed: int = 0,
) -> Sanity:
    """Check a classifier's maps on a copy of it.

    A layer loses what it learnt by having its values put in another order: so they stay as large
    as they were, and signals neither die nor explode on the way.

    Args:
        model: The network; nothing about it changes.
        preprocessing: What is done to its pictures first.
        layer: The layer whose maps are weighed.
        pictures: Real ones of its input size, uint8 (n, h, w, 3), at least one.
        method: A fast one.
        seed: Of the random orders.
    """
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    probe = Probe(copy, preprocessing, max_batch_size=_PICTURES)
    images = pictures[:_PICTURES].astype(np.float32)
    classes = probe.probabilities(images).argmax(axis=-1).astype(np.int32)
    before = probe.grids(method, images, classes, layer)
    weighted = [step.layer for step in probe.flat.steps.values() if step.layer.weights][::-1]
    random, found = np.random.default_rng(seed), {}
    for stage in np.array_split(np.arange(len(weighted)), min(_STAGES, len(weighted))):
        for at in stage:
            _forget(weighted[at], random)
        after = probe.grids(method, images, classes, layer)
        pairs = zip(before, after, strict=True)
        found[weighted[stage[-1]].name] = float(np.mean([rank_correlation(*p) for p in pairs]))
    last = list(found.values())[-1]
    return Sanity(
        method=method,
        layer=layer,
        pictures=len(images),
        rank_correlation={name: round(value, 4) for name, value in found.items()},
        passed=abs(last) < LIMIT,
    )


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


def _forget(layer: keras.Layer, random: np.random.Generator) -> None:
    layer.set_weights([random.permutation(w.ravel()).reshape(w.shape) for w in layer.get_weights()])
