"""`augmentation.png`: what a training's augmentation makes of one image.

First the image itself and each option alone, then sixteen images as they are drawn.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from contracts.queue.messages import Pixels
from contracts.training.training_options import Augmentation
from models.training.data.augmentation import apply_transforms, draw_transforms
from models.training.report.chart_style import FAINT, INK, RULE, figure, plain, png

VIEWS = 16
_COLUMNS = 8
_SIDE, _GAP, _CAPTION, _TITLE = 1.3, 0.12, 0.26, 0.5  # inches
_DRAWS = 16  # of which the one that changes most shows an option


def augmentation_sheet(pixels: Pixels, options: Augmentation, seed: int) -> bytes:
    """Draw the sheet.

    Args:
        pixels: A training image as the network gets it, uint8 (h, w, 3).
        options: The ranges; at least one of them is active.
        seed: Of the draws; the same one gives the same sheet.

    Returns:
        A PNG.
    """
    shown = [("original", pixels), *_each_alone(pixels, options, seed)]
    rows = -(-len(shown) // _COLUMNS)
    views = [("", view) for view in _drawn(pixels, options, VIEWS, seed)]
    shown += [("", None)] * (rows * _COLUMNS - len(shown)) + views
    return _sheet(shown, title_rows={0: "Each option alone", rows: "All together, as drawn"})


def _each_alone(
    pixels: Pixels, options: Augmentation, seed: int
) -> Iterator[tuple[str, Pixels | None]]:
    """Each active option by itself: of several draws the one that changes most."""
    fill = {"fill_mode": options.fill_mode, "cval": options.cval}
    for name, value in options.model_dump(exclude_defaults=True).items():
        alone = Augmentation.model_validate({name: value} | fill)
        if name in fill or not alone.active:
            continue
        drawn = _drawn(pixels, alone, _DRAWS, seed)
        changes = np.abs(drawn.astype(np.int16) - pixels).mean(axis=(1, 2, 3))
        caption = f"{name.replace('_', ' ')} {_range(value)}".rstrip()
        yield caption, drawn[int(changes.argmax())]


def _range(value: bool | float | Sequence[float]) -> str:
    if isinstance(value, bool):
        return ""
    return f"{value:g}" if isinstance(value, int | float) else " to ".join(f"{v:g}" for v in value)


def _drawn(pixels: Pixels, options: Augmentation, count: int, seed: int) -> Pixels:
    """Randomly transformed copies, uint8 (count, h, w, 3)."""
    height, width, _ = pixels.shape
    drawn = draw_transforms(options, count, (height, width), np.random.default_rng(seed))
    copies = np.repeat(pixels[None], count, axis=0)
    moved = apply_transforms(copies, drawn.affine, drawn.brightness, drawn.offset, options).numpy()
    rounded: Pixels = moved.round().astype(np.uint8)
    return rounded


def _sheet(shown: Sequence[tuple[str, Pixels | None]], *, title_rows: dict[int, str]) -> bytes:
    rows = -(-len(shown) // _COLUMNS)
    cell = _SIDE + _GAP
    width = _COLUMNS * cell + _GAP
    height = rows * (cell + _CAPTION) + len(title_rows) * _TITLE + _GAP
    chart = figure(width, height)
    chart.set_layout_engine("none")
    top = height
    for row in range(rows):
        if row in title_rows:
            top -= _TITLE
            chart.text(
                _GAP / width, (top + 0.12) / height, title_rows[row],
                color=INK, fontsize=12, weight="bold",
            )  # fmt: skip
        top -= _SIDE + _CAPTION
        for column, (caption, pixels) in enumerate(shown[row * _COLUMNS :][:_COLUMNS]):
            if pixels is None:
                continue
            corner = ((_GAP + column * cell) / width, (top + _CAPTION) / height)
            axes = chart.add_axes((*corner, _SIDE / width, _SIDE / height))
            small = max(pixels.shape) < 64
            axes.imshow(pixels, interpolation="nearest" if small else "antialiased")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(RULE)
            label = axes.set_xlabel(caption, fontsize=8, color=FAINT, labelpad=2)
            plain(label)
        top -= _GAP
    return png(chart, colors=None)
