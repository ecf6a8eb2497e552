import io

import numpy as np
from PIL import Image

from models.rendering.contact_sheet import Tile, contact_sheet, to_png

RED = np.full((20, 30, 3), (255, 0, 0), np.uint8)


def test_tiles_are_evenly_spaced_and_blank_ones_marked() -> None:
    paper = np.asarray(
        contact_sheet([Tile(RED, "a"), Tile(RED, "b", True), Tile(RED, "c")], columns=2)
    )
    red = (paper == (255, 0, 0)).all(axis=-1)
    assert red.sum() == 2 * 20 * 30, "the blank one is not shown"
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert len(rows) == 40
    assert len(columns) == 30
    second = paper[rows[0] : rows[0] + 20, columns[-1] + 1 :]
    assert (second < 200).any(), "the blank one is marked"


def test_long_title_does_not_widen_the_sheet() -> None:
    long = contact_sheet([Tile(RED, "x" * 200)], title="y" * 200)
    assert long.size == contact_sheet([Tile(RED, "x")], title="y").size
    assert Image.open(io.BytesIO(to_png(long))).size == long.size
