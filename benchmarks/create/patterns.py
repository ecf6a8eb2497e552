"""Style images made by code, so that documents and benchmarks need no painting of others."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

Pixels = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float64]

_NIGHT = ("#0b1d51", "#17408b", "#2f6db5", "#7fb2d6", "#e9d66b", "#f4b942", "#10305f", "#dfe8e2")
_GLASS = ("#c0392b", "#e67e22", "#f1c40f", "#27ae60", "#2980b9", "#8e44ad", "#16a085", "#ecf0f1")


def _palette(colors: tuple[str, ...]) -> Field:
    return np.array([[int(one[i : i + 2], 16) for i in (1, 3, 5)] for one in colors], float)


def strokes(side: int = 512, seed: int = 3) -> Image.Image:
    """Brush strokes along a swirling flow, in blues and yellows."""
    random = np.random.default_rng(seed)
    height = gaussian_filter(random.normal(size=(side, side)), side / 14, mode="wrap")
    down, across = np.gradient(height / height.std())
    length = np.hypot(down, across) + 1e-9
    flow = np.stack([across / length, -down / length])  # along the contours
    colors = _palette(_NIGHT)
    cells = random.integers(len(colors), size=(side // 4, side // 4))
    bands = ((height / height.std()) * 1.6).round().astype(int)
    base = np.kron(cells, np.ones((4, 4), int))[:side, :side]
    noise = colors[np.where(random.random((side, side)) < 0.55, bands % len(colors), base)]
    smooth = _along(noise, flow, steps=14)
    relief = _along(random.normal(size=(side, side, 1)) * 90, flow, steps=10)
    return Image.fromarray(np.clip(smooth + relief, 0, 255).astype(np.uint8))


def _along(image: Field, flow: Field, steps: int) -> Field:
    """The mean of an image along the lines of a flow (line integral convolution)."""
    grid = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    total, count = image.copy(), 1
    for sign in (1, -1):
        place = grid.copy()
        for _ in range(steps):
            move = np.stack([map_coordinates(part, place, order=1, mode="wrap") for part in flow])
            place += sign * move
            layers = [
                map_coordinates(image[..., n], place, order=1, mode="wrap")
                for n in range(image.shape[-1])
            ]
            total, count = total + np.stack(layers, -1), count + 1
    return total / count


def stained_glass(side: int = 512, seed: int = 5) -> Image.Image:
    """Panes of colored glass between leads."""
    random = np.random.default_rng(seed)
    points = random.random((90, 2)) * side
    grid = np.mgrid[:side, :side].reshape(2, -1).T
    distances = np.linalg.norm(grid[:, None] - points[None], axis=-1)
    order = np.argsort(distances, axis=1)[:, :2]
    near = np.take_along_axis(distances, order, axis=1)
    panes = _palette(_GLASS)[random.integers(len(_GLASS), size=len(points))]
    light = gaussian_filter(random.normal(size=(side, side)), 9)
    color = panes[order[:, 0]].reshape(side, side, 3) * (1 + 3 * light[..., None])
    lead = np.clip((near[:, 1] - near[:, 0] - 4) / 3, 0, 1).reshape(side, side, 1)
    return Image.fromarray(np.clip(color * lead + 18 * (1 - lead), 0, 255).astype(np.uint8))


def woodcut(side: int = 512, seed: int = 7) -> Image.Image:
    """Curved black lines of changing width on warm paper."""
    random = np.random.default_rng(seed)
    warp = gaussian_filter(random.normal(size=(side, side)), side / 16, mode="wrap")
    tone = gaussian_filter(random.normal(size=(side, side)), side / 12, mode="wrap")
    rows = np.arange(side)[:, None] + 0.35 * np.arange(side)[None] + 38 * warp / warp.std()
    wave = np.sin(rows * 2 * np.pi / 11)
    ink = gaussian_filter((wave > 0.55 * np.tanh(tone / tone.std())).astype(float), 0.7)
    paper, black = np.array([236, 222, 192.0]), np.array([28, 24, 30.0])
    red = (tone / tone.std() > 1.1).astype(float)[..., None]
    ground = paper * (1 - red) + np.array([178, 58, 42.0]) * red
    image = ground * (1 - ink[..., None]) + black * ink[..., None]
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


STYLES: dict[str, Callable[[int], Image.Image]] = {
    "strokes": strokes,
    "stained glass": stained_glass,
    "woodcut": woodcut,
}
