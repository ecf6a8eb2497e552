import io

import numpy as np
import pytest
from PIL import Image

from models.rendering.colormaps import colors_of
from models.rendering.contact_sheet import TITLE_SIZE, Tile, contact_sheet, to_png
from models.rendering.legend import percent, with_legend

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


def test_a_legend_around_a_sheet_has_the_letters_of_its_title() -> None:
    """In proportion to the sheet's width they would fill a third of it."""
    sheet = contact_sheet([Tile(np.full((320, 320, 3), 90, np.uint8), "a")] * 8, columns=4)
    title = "dog.jpg: tennis ball 97.1%, efficientnet_lite0 version 1, layer head_activation"
    whole = with_legend(sheet, title, colors_of("jet"), size=TITLE_SIZE)
    assert whole.height - sheet.height < 5 * TITLE_SIZE
    assert with_legend(sheet, title, colors_of("jet")).height > whole.height


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0, "0.0%"), (2e-5, "<0.1%"), (0.0006, "0.1%"), (0.9457, "94.6%"), (1, "100.0%")],
)
def test_a_class_that_is_possible_has_no_probability_of_zero(probability: float, text: str) -> None:
    assert percent(probability) == text
