"""Compares the resize by vector instructions with Pillow's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.images import bilinear
from models.images.bilinear import resize_bilinear

Box = tuple[float, float, float, float]

simd = pytest.mark.skipif(bilinear.simd is None, reason="no wheel for this platform")


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    levels = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels).convert(mode)


def difference(image: Image.Image, size: tuple[int, int], box: Box | None) -> np.ndarray:
    expected = image.resize(size, Image.Resampling.BILINEAR, box=box)
    resized = resize_bilinear(image, size, box)
    assert (resized.size, resized.mode) == (expected.size, expected.mode)
    return np.abs(np.asarray(resized).astype(int) - np.asarray(expected))


def exact(image: Image.Image, size: tuple[int, int], box: Box) -> np.ndarray:
    """The levels before rounding, by Pillow in floats."""
    bands = (np.asarray(band, np.float32) for band in image.split())
    return np.stack(
        [
            np.asarray(Image.fromarray(band).resize(size, Image.Resampling.BILINEAR, box=box))
            for band in bands
        ],
        axis=-1,
    )


@simd
@pytest.mark.parametrize("size", [(480, 360), (360, 480), (90, 60), (4100, 1500), (227, 227)])
def test_levels_are_as_exact_as_pillows(size: tuple[int, int]) -> None:
    image, target = noise(*size), (227, 227)
    box = (0.3, 1.7, size[0] - 2.6, size[1] - 0.1)
    assert difference(image, target, box).max() <= 2
    true = exact(image, target, box)
    errors = [
        np.abs(np.asarray(resized) - true)
        for resized in (
            resize_bilinear(image, target, box),
            image.resize(target, Image.Resampling.BILINEAR, box=box),
        )
    ]
    assert errors[0].mean() <= 1.1 * errors[1].mean()
    assert errors[0].max() < 1.2


@simd
def test_gray_is_resized_as_its_rgb() -> None:
    gray = noise(300, 200, "L")
    box = (1.2, 3, 290, 199.5)
    color = np.asarray(resize_bilinear(gray.convert("RGB"), (61, 47), box))
    np.testing.assert_array_equal(color[..., 1], np.asarray(resize_bilinear(gray, (61, 47), box)))


@simd
def test_photo_is_not_resized_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(300, 200)
    monkeypatch.setattr(Image.Image, "resize", None)
    assert resize_bilinear(image, (20, 10)).size == (20, 10)


@simd
def test_wide_image_takes_no_more_memory_than_with_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilinear, "_resizer", None)  # it would take half a gigabyte
    assert resize_bilinear(Image.new("RGB", (600_000, 1)), (227, 227)).size == (227, 227)


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBa", "CMYK"])
def test_other_modes_are_exactly_pillows(mode: str) -> None:
    image = Image.new(mode, (31, 17))
    assert difference(image, (9, 8), (0.5, 1, 30, 16)).max() == 0


def test_without_the_package_pillow_resizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bilinear, "simd", None)
    assert difference(noise(300, 200), (20, 10), (3.2, 4, 290, 199.5)).max() == 0


@simd
@settings(max_examples=60)
@given(data=st.data(), width=st.integers(1, 400), height=st.integers(1, 400))
def test_any_part_of_any_image(data: st.DataObject, width: int, height: int) -> None:
    def part(side: int) -> tuple[float, float]:
        start = data.draw(st.floats(0, side - 0.5))
        return start, data.draw(st.floats(start + 0.5, side))

    (left, right), (top, bottom) = part(width), part(height)
    target = data.draw(st.tuples(st.integers(1, 80), st.integers(1, 80)))
    assert difference(noise(width, height), target, (left, top, right, bottom)).max() <= 2


@simd
@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (3, 2)])
def test_thin_images_keep_their_color(size: tuple[int, int]) -> None:
    small = resize_bilinear(Image.new("RGB", size, (1, 200, 77)), (224, 224))
    assert small.getcolors() == [(224 * 224, (1, 200, 77))]
