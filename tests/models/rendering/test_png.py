"""What is written is what is read, by a decoder that is not ours, and it is small."""

import io
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from models.rendering.png import Packing, png


@pytest.mark.parametrize("packing", get_args(Packing))
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (200, 64), (33, 129), (300, 150)])
def test_pixels_survive_a_round_trip(size: tuple[int, int], packing: Packing) -> None:
    random = np.random.default_rng(8)
    picture = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))
    read = Image.open(io.BytesIO(png(picture, packing)))
    assert (read.format, read.mode, read.size) == ("PNG", "RGB", size)
    read.verify()
    read = Image.open(io.BytesIO(png(picture, packing)))
    np.testing.assert_array_equal(np.asarray(read), np.asarray(picture))


def test_plain_images_are_small_files() -> None:
    assert len(png(Image.new("RGB", (2000, 1000)))) < 50_000
    ramp = Image.linear_gradient("L").resize((512, 512)).convert("RGB")
    assert len(png(ramp)) < 512 * 512 * 3 / 20
