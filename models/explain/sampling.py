"""Heatmaps found by running a network many times on variants of the image.

Four methods, one image at a time, in batches inside, so that memory is bounded for any request.
Each returns raw evidence; the explainer rectifies and scales it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from contracts.inference.explanation import Method
from models.explain.instrumented_model import Array, InstrumentedModel

MAX_MASKS = 192  # maps that Score-CAM weighs, each by a pass of its own
OCCLUSION_CELLS = 14
OCCLUSION_PATCH = 3  # cells a side: a fifth of the image
OCCLUSION_STRIDE = 2  # a patch on every other cell of a row; 1: on all of them
NOISY_COPIES = 32
NOISE = 0.15  # of the image's range, in the middle of the paper's 10 to 20%
PATH_STEPS = 32
SMOOTHING = 3 / 56  # standard deviation of integrated gradients' blur, of the grid's side
BRIGHTEST = 99  # percentile of the evidence above which all is shown alike
PIXEL_CELLS = 56  # a side, to which pixel maps are averaged: single pixels are mostly noise


@dataclass(frozen=True, slots=True)
class SamplingInput:
    """One image and the class to explain.

    Attributes:
        model: The network.
        image: (h, w, 3), float32 levels of 0 to 255.
        layer: The layer whose maps are used, if the method uses any.
        progress: Called with the fraction done.
    """

    model: InstrumentedModel
    image: Array
    index: int
    layer: str
    seed: int
    progress: Callable[[float], None]


def score_cam(sampling: SamplingInput) -> Array:
    """Weighs each map by the class's score when only its part of the image is visible.

    Score-CAM (Wang et al., 2020, arXiv:1910.01279, algorithm 1): sum_k softmax_k(S_k) A_k, S_k
    being the logit for the image masked by A_k scaled to 0..1. The paper's baseline score is the
    same for all k and cancels in the softmax. Constant maps hide nothing and are left out; of the
    others, the `MAX_MASKS` that are strongest on average. The weight of a weaker map multiplies
    small values, so it hardly shows in the sum (docs/explanation/heatmaps.md has the numbers).
    """
    maps = sampling.model.maps(sampling.image[np.newaxis], sampling.layer)[0]
    low, high = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    maps = maps[..., high > low]
    if maps.shape[-1] == 0:
        return np.zeros(maps.shape[:2], np.float32)
    strongest = np.argsort(-np.abs(maps).mean(axis=(0, 1)), kind="stable")[:MAX_MASKS]
    maps = maps[..., np.sort(strongest)]
    masks = (maps - maps.min(axis=(0, 1))) / np.ptp(maps, axis=(0, 1))
    scores = _masked_scores(sampling, masks.transpose(2, 0, 1))
    weights = np.exp(scores - scores.max())
    evidence: Array = maps @ (weights / weights.sum())
    return evidence


def occlusion(sampling: SamplingInput) -> Array:
    """Rates each position by the mean drop of the score when a patch covers it.

    Occlusion sensitivity (Zeiler and Fergus, 2014, arXiv:1311.2901, section 4.2). The patch has
    soft edges, because networks see hard ones as shapes. It stands on every other cell, as on the
    black squares of a chessboard: patches overlap so far that the others would say the same again.
    """
    height, width = (min(OCCLUSION_CELLS, side) for side in sampling.image.shape[:2])
    reach = OCCLUSION_PATCH // 2
    down, across = np.arange(height), np.arange(width)
    near = (
        (np.abs(down[:, None] - down) <= reach)[:, None, :, None]
        & (np.abs(across[:, None] - across) <= reach)[None, :, None, :]
    ).reshape(height * width, height, width)  # patch, cell
    near = near[((down[:, None] + across) % OCCLUSION_STRIDE == 0).ravel()]
    masks = np.concatenate([np.ones((1, height, width), np.float32), 1.0 - near])
    scores = _masked_scores(sampling, masks.astype(np.float32))
    drops = scores[0] - scores[1:]
    evidence = (drops[:, None, None] * near).sum(axis=0) / near.sum(axis=0)
    return np.asarray(evidence, np.float32)


def smooth_grad(sampling: SamplingInput) -> Array:
    """Rates each position by the mean gradient of the score over noisy copies.

    SmoothGrad (Smilkov et al., 2017, arXiv:1706.03825): |mean_n dS/dx(x + noise_n)|, summed over
    the colors. It shows where the score is sensitive, not in which direction.
    """
    random = np.random.default_rng(sampling.seed)
    spread = NOISE * float(np.ptp(sampling.image))

    def copies(count: int) -> Array:
        noise: Array = random.standard_normal((count, *sampling.image.shape), np.float32)
        return sampling.image + noise * np.float32(spread)

    sizes = _batch_sizes(NOISY_COPIES, sampling.model.batch)
    mean = _mean_gradient(sampling, (copies(size) for size in sizes), NOISY_COPIES)
    return _pooled(np.abs(mean).sum(axis=-1))


def integrated_gradients(sampling: SamplingInput) -> Array:
    """Rates each position by what it adds to the score on the path from black to the image.

    Integrated Gradients (Sundararajan et al., 2017, arXiv:1703.01365, eq. 3), by the midpoint
    rule: x * mean_s dS/dx(s x). Its sum over all positions is what the score gained. Neighboring
    points differ in sign, so single points show nothing that an eye could read: they are averaged
    with their neighbors, and a few extreme points do not set the scale.
    """
    shares = ((np.arange(PATH_STEPS) + 0.5) / PATH_STEPS).astype(np.float32)
    batches = np.split(shares, np.cumsum(_batch_sizes(PATH_STEPS, sampling.model.batch))[:-1])
    path: Iterable[Array] = (
        (sampling.image * share[:, None, None, None]).astype(np.float32) for share in batches
    )
    mean = _mean_gradient(sampling, path, PATH_STEPS)
    return _legible(_pooled((sampling.image * mean).sum(axis=-1)))


SAMPLINGS: dict[Method, Callable[[SamplingInput], Array]] = {
    "score_cam": score_cam,
    "occlusion": occlusion,
    "smooth_grad": smooth_grad,
    "integrated_gradients": integrated_gradients,
}


def _masked_scores(sampling: SamplingInput, masks: Array) -> Array:
    parts, done = [], 0
    for scores in sampling.model.masked_scores(sampling.image, masks, sampling.index):
        parts.append(scores)
        done += len(scores)
        sampling.progress(done / len(masks))
    return np.concatenate(parts)


def _mean_gradient(sampling: SamplingInput, batches: Iterable[Array], total: int) -> Array:
    gradient, done = np.zeros(sampling.image.shape, np.float32), 0
    for batch in batches:
        classes = np.full(len(batch), sampling.index, np.int32)
        gradient += sampling.model.gradients(batch, classes).sum(axis=0)
        done += len(batch)
        sampling.progress(done / total)
    mean: Array = gradient / np.float32(total)
    return mean


def _batch_sizes(total: int, maximum: int) -> list[int]:
    return [min(maximum, total - start) for start in range(0, total, maximum)]


def _pooled(values: Array) -> Array:
    """Averaged to at most `PIXEL_CELLS` a side."""
    height, width = (min(PIXEL_CELLS, side) for side in values.shape)
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32)


def _legible(evidence: Array) -> Array:
    """Averaged with its neighbors, and cut at a percentile of what speaks for the class."""
    for axis in (0, 1):
        evidence = _blurred(evidence, axis)
    positive = np.maximum(evidence, 0)
    limit = float(np.percentile(positive, BRIGHTEST))
    return np.minimum(positive, limit) if limit > 0 else positive


def _blurred(values: Array, axis: int) -> Array:
    """A Gaussian along one axis; the edge is mirrored."""
    side = values.shape[axis]
    spread = SMOOTHING * side
    reach = min(side - 1, round(3 * spread))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(spread, 1e-6)) ** 2)
    pad = [(reach, reach) if number == axis else (0, 0) for number in range(2)]
    padded = np.pad(values, pad, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis)
    return np.asarray(windows @ (kernel / kernel.sum()), np.float32)
