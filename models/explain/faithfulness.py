"""How far a heatmap can be trusted: deletion and insertion.

Petsiuk et al., 2018, "RISE", arXiv:1806.07421, section 4.2. If a map is right, hiding the positions
it marks as important makes the class's probability fall at once (deletion, a small area is good);
showing them first makes it rise at once (insertion, a large area is good).
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from contracts.inference.explanation import Faithfulness
from contracts.queue.messages import Pixels

Predict = Callable[[Pixels], npt.NDArray[np.float32]]
"""From uint8 (n, h, w, 3) to probabilities (n, classes)."""

_Curve = npt.NDArray[np.float32]

STEPS = 32
_BATCH = 16  # variants in memory at once
_BLUR = 1 / 22  # of the short side: as strong as the paper's, in pixels of 224


def faithfulness(
    predict: Predict,
    image: Pixels,
    grid: npt.NDArray[np.float32],
    target: int,
    steps: int = STEPS,
) -> Faithfulness:
    """Deletion and insertion AUC of a map.

    Deleted pixels become the image's mean color; pixels not yet inserted are blurred. Positions
    of equal evidence are taken in a random but fixed order.

    Args:
        predict: The network.
        image: (h, w, 3).
        grid: The map of any size, (gh, gw); it is resized to the image.
        target: The class.
        steps: The number of equal parts in which the image is changed.

    Returns:
        Both areas under the curve of the class's probability, 0 to 1.
    """
    order = _most_important_first(grid, image.shape[:2])

    def of_target(images: Pixels) -> _Curve:
        return predict(images)[:, target]

    mean = np.broadcast_to(image.mean(axis=(0, 1)).astype(np.uint8), image.shape)
    return Faithfulness(
        deletion_auc=_area(of_target, _variants(image, mean, order, steps)),
        insertion_auc=_area(of_target, _variants(_blurred(image), image, order, steps)),
    )


def _most_important_first(
    grid: npt.NDArray[np.float32], shape: tuple[int, ...]
) -> npt.NDArray[np.intp]:
    """The pixels by falling evidence, as indices into the flattened image."""
    fine = Image.fromarray(np.ascontiguousarray(grid, np.float32)).resize(
        (shape[1], shape[0]), Image.Resampling.BILINEAR
    )
    values = np.asarray(fine).ravel()
    shuffled = np.random.default_rng(0).permutation(values.size)
    order: npt.NDArray[np.intp] = shuffled[np.argsort(-values[shuffled], kind="stable")]
    return order


def _area(probability: Callable[[Pixels], _Curve], variants: Iterator[Pixels]) -> float:
    """Area under the probability from the first variant to the last, of width 1."""
    curve = np.concatenate([probability(batch) for batch in variants])
    return float(np.clip(np.trapezoid(curve, dx=1 / (len(curve) - 1)), 0, 1))


def _variants(
    start: Pixels, end: Pixels, order: npt.NDArray[np.intp], steps: int
) -> Iterator[Pixels]:
    """`start` turning into `end`, pixel by pixel in `order`: uint8 (batch, h, w, 3)."""
    current, target = start.reshape(-1, 3).copy(), end.reshape(-1, 3)
    ends = np.linspace(0, order.size, steps + 1).round().astype(int)
    batch, changed = [], 0
    for stop in ends:
        pixels = order[changed:stop]
        current[pixels] = target[pixels]
        changed = stop
        batch.append(current.reshape(start.shape).copy())
        if len(batch) == _BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _blurred(image: Pixels) -> Pixels:
    radius = min(image.shape[:2]) * _BLUR
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
