"""Why a network chose a class, found by running it many times on variants of the picture.

Four methods, one picture at a time, in batches inside, so that memory is bounded whatever is asked.
Each gives raw evidence; the explainer rectifies and scales it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from contracts.inference.explanation import Method
from models.explain.instrumented_model import Array, Probe

OCCLUSION_CELLS = 14
OCCLUSION_PATCH = 3  # cells a side: a fifth of the picture
NOISY_COPIES = 32
NOISE = 0.15  # of the picture's range, in the middle of the paper's 10 to 20 %
PATH_STEPS = 32
PIXEL_CELLS = 56  # a side, to which maps of pixels are averaged: single pixels are mostly noise


@dataclass(frozen=True, slots=True)
class Question:
    """One picture and a class of it.

    Attributes:
        probe: The network.
        image: (h, w, 3), float32 levels of 0 to 255.
        index: The class.
        layer: The layer whose maps are used, if the method uses any.
        seed: Of what is random.
        progress: Told the fraction done.
    """

    probe: Probe
    image: Array
    index: int
    layer: str
    seed: int
    progress: Callable[[float], None]


def score_cam(question: Question) -> Array:
    """Each map counts as much as the class's score when only its part of the picture is seen.

    Score-CAM (Wang et al., 2020, arXiv:1910.01279, algorithm 1): sum_k softmax_k(S_k) A_k, S_k
    being the logit for the picture under A_k scaled to 0..1. What the score without a picture
    would take away is the same for all k and falls out of the softmax. Maps that are the same
    everywhere hide nothing and are left out.
    """
    maps = question.probe.maps(question.image[np.newaxis], question.layer)[0]
    low, high = maps.min(axis=(0, 1)), maps.max(axis=(0, 1))
    maps = maps[..., high > low]
    if maps.shape[-1] == 0:
        return np.zeros(maps.shape[:2], np.float32)
    masks = (maps - maps.min(axis=(0, 1))) / np.ptp(maps, axis=(0, 1))
    scores = _masked(question, masks.transpose(2, 0, 1))
    weights = np.exp(scores - scores.max())
    evidence: Array = maps @ (weights / weights.sum())
    return evidence


def occlusion(question: Question) -> Array:
    """Each place counts as much as the score falls, on average, when a patch over it hides it.

    Occlusion sensitivity (Zeiler and Fergus, 2014, arXiv:1311.2901, section 4.2). The patch has
    soft edges: a hard one is a shape that networks see.
    """
    height, width = (min(OCCLUSION_CELLS, side) for side in question.image.shape[:2])
    reach = OCCLUSION_PATCH // 2
    down, across = np.arange(height), np.arange(width)
    near = (
        (np.abs(down[:, None] - down) <= reach)[:, None, :, None]
        & (np.abs(across[:, None] - across) <= reach)[None, :, None, :]
    ).reshape(height * width, height, width)  # patch, cell
    masks = np.concatenate([np.ones((1, height, width), np.float32), 1.0 - near])
    scores = _masked(question, masks.astype(np.float32))
    drops = scores[0] - scores[1:]
    evidence = (drops[:, None, None] * near).sum(axis=0) / near.sum(axis=0)
    return np.asarray(evidence, np.float32)


def smooth_grad(question: Question) -> Array:
    """Each place counts as much as the score moves with it, on average over noisy copies.

    SmoothGrad (Smilkov et al., 2017, arXiv:1706.03825): |mean_n dS/dx(x + noise_n)|, summed over
    the colors. It says where the score is sensitive, not in which direction.
    """
    random = np.random.default_rng(question.seed)
    spread = NOISE * float(np.ptp(question.image))

    def copies(count: int) -> Array:
        noise: Array = random.standard_normal((count, *question.image.shape), np.float32)
        return question.image + noise * np.float32(spread)

    sizes = _sizes(NOISY_COPIES, question.probe.batch)
    mean = _mean_gradient(question, (copies(size) for size in sizes), NOISY_COPIES)
    return _pooled(np.abs(mean).sum(axis=-1))


def integrated_gradients(question: Question) -> Array:
    """Each place counts as much as it adds to the score on the way from black to the picture.

    Integrated Gradients (Sundararajan et al., 2017, arXiv:1703.01365, eq. 3), by the midpoint
    rule: x * mean_s dS/dx(s x). Summed over all places it is what the score gained.
    """
    shares = ((np.arange(PATH_STEPS) + 0.5) / PATH_STEPS).astype(np.float32)
    batches = np.split(shares, np.cumsum(_sizes(PATH_STEPS, question.probe.batch))[:-1])
    path: Iterable[Array] = (
        (question.image * share[:, None, None, None]).astype(np.float32) for share in batches
    )
    mean = _mean_gradient(question, path, PATH_STEPS)
    return _pooled((question.image * mean).sum(axis=-1))


SAMPLINGS: dict[Method, Callable[[Question], Array]] = {
    "score_cam": score_cam,
    "occlusion": occlusion,
    "smooth_grad": smooth_grad,
    "integrated_gradients": integrated_gradients,
}


def _masked(question: Question, masks: Array) -> Array:
    parts, done = [], 0
    for scores in question.probe.masked_scores(question.image, masks, question.index):
        parts.append(scores)
        done += len(scores)
        question.progress(done / len(masks))
    return np.concatenate(parts)


def _mean_gradient(question: Question, batches: Iterable[Array], total: int) -> Array:
    gradient, done = np.zeros(question.image.shape, np.float32), 0
    for batch in batches:
        classes = np.full(len(batch), question.index, np.int32)
        gradient += question.probe.gradients(batch, classes).sum(axis=0)
        done += len(batch)
        question.progress(done / total)
    mean: Array = gradient / np.float32(total)
    return mean


def _sizes(total: int, most: int) -> list[int]:
    return [min(most, total - at) for at in range(0, total, most)]


def _pooled(values: Array) -> Array:
    """Averaged to at most `PIXEL_CELLS` a side."""
    height, width = (min(PIXEL_CELLS, side) for side in values.shape)
    picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float32)
