"""Whether a version's heatmaps depend on its weights, or would look the same without them.

The cascading randomisation of Adebayo et al. (2018, "Sanity Checks for Saliency Maps",
arXiv:1810.03292, section 3.1): from the output down, layer after layer loses what it learnt, and
the map is compared with the original one. A map that does not change never described the network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.stats import spearmanr

from contracts.inference.explanation import Method, Sanity
from contracts.queue.messages import Pixels
from models.explain.layer_graph import LayerGraph
from models.export.endpoints import OUTPUTS, TARGET

METHOD: Method = "grad_cam"
LIMIT = 0.5
"""With all layers random, maps whose rank correlation reaches this do not depend on the weights."""

_STAGES = 8
_MAX_IMAGES = 3
_Grid = npt.NDArray[np.float32]
_Layer = tuple[str, Sequence[Any]]


def sanity(model: keras.Model, loaded: Any, layer: str, images: Pixels) -> Sanity:
    """Check a classifier's Grad-CAM on its loaded SavedModel.

    The SavedModel is at hand when a version is made, and already traced, so a check costs a few
    batches. A layer loses what it learnt by shuffling its values: they keep their magnitude, so
    signals neither vanish nor explode. The order is drawn from a fixed seed.

    Args:
        model: The network that was exported; not changed.
        loaded: The result of `tf.saved_model.load`. Its weights are destroyed.
        layer: The layer whose maps are weighed.
        images: Real images of the input size, uint8 (n, h, w, 3), at least one.
    """
    explain = loaded.signatures["explain"]
    weighted = _weighted(model, {variable.name: variable for variable in explain.variables})[::-1]
    batch = tf.constant(images[:_MAX_IMAGES])
    most_probable = tf.fill((len(batch),), np.int32(-1))
    first = explain(images=batch, class_index=most_probable)
    original, random = first[OUTPUTS["explain"]].numpy(), np.random.default_rng(0)
    correlations = {}
    for stage in np.array_split(np.arange(len(weighted)), min(_STAGES, len(weighted))):
        for index in stage:
            _shuffle(weighted[index][1], random)
        grids = explain(images=batch, class_index=first[TARGET])[OUTPUTS["explain"]].numpy()
        pairs = zip(original, grids, strict=True)
        mean = float(np.mean([rank_correlation(*pair) for pair in pairs]))
        correlations[weighted[stage[-1]][0]] = mean
    return Sanity(
        method=METHOD,
        layer=layer,
        pictures=len(batch),
        rank_correlation={name: round(value, 4) for name, value in correlations.items()},
        passed=abs(list(correlations.values())[-1]) < LIMIT,
    )


def rank_correlation(a: _Grid, b: _Grid) -> float:
    """Spearman's rank correlation of two maps of one shape: -1 to 1; 0 if either is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b, axis=None).statistic)


def _weighted(model: keras.Model, variables: Mapping[str, Any]) -> list[_Layer]:
    """The layers with weights, in the order of the forward pass, with the SavedModel's variables.

    Args:
        model: The network that was exported.
        variables: Those of the SavedModel, by name.
    """
    layers = [node.layer for node in LayerGraph.of(model).nodes.values()]
    copies = [
        (
            layer.name,
            [
                variables[name]
                for weight in layer.weights
                if (name := weight.value.name) in variables
            ],
        )
        for layer in layers
    ]
    return [(name, copied) for name, copied in copies if copied]


def _shuffle(variables: Sequence[Any], random: np.random.Generator) -> None:
    for variable in variables:
        values = variable.numpy()
        variable.assign(random.permutation(values.ravel()).reshape(values.shape))
