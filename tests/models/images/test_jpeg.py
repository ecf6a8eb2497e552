import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.errors import InvalidImage
from models.catalog import CATALOG
from models.images.decode import decode
from models.images.jpeg import quick_jpeg
from models.images.resize import TURNS, UPRIGHT, Turn, fit

SQUEEZENET = CATALOG["squeezenet"]


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def opened(raw: bytes) -> Image.Image:
    return Image.open(io.BytesIO(raw))


def reference(raw: bytes, turn: Turn = UPRIGHT) -> np.ndarray:
    height, width = SQUEEZENET.input_size
    image = opened(raw).convert("RGB")
    return np.asarray(
        fit(image, target=(width, height), short_side=256, resize="crop", turn=turn)
    ).astype(int)


@pytest.fixture(scope="module")
def cat(photos: Path) -> Image.Image:
    with Image.open(photos / "cat.png") as image:
        return image.convert("RGB")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(500, 375), (411, 313), (240, 180)])
def test_at_full_size_the_pixels_are_pillows_own(
    cat: Image.Image, mode: str, size: tuple[int, int]
) -> None:
    raw = jpeg(cat.convert(mode).resize(size))
    quick = quick_jpeg(raw, opened(raw), 256)
    assert quick is None
    decoded = decode(raw, network=SQUEEZENET, max_pixels=10**7).pixels
    np.testing.assert_array_equal(decoded, reference(raw))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_large_one_is_reduced_and_strays_by_less_than_a_level(
    cat: Image.Image, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    raw = jpeg(cat.resize((2403, 1801)), exif=exif)
    quick = quick_jpeg(raw, opened(raw), 256)
    assert quick is not None
    assert 512 <= min(quick.size) < 1801 / 2
    picture = decode(raw, network=SQUEEZENET, max_pixels=10**7)
    assert {picture.width, picture.height} == {2403, 1801}
    difference = np.abs(picture.pixels - reference(raw, TURNS[orientation]))
    assert difference.mean() < 1
    assert np.quantile(difference, 0.99) <= 4


def test_other_colors_and_broken_data_are_left_to_pillow(cat: Image.Image) -> None:
    cmyk = jpeg(cat.resize((1300, 1100)).convert("CMYK"))
    assert quick_jpeg(cmyk, opened(cmyk), 256) is None
    raw = jpeg(cat.resize((1300, 1100)))
    assert quick_jpeg(raw, opened(raw), 256) is not None
    cut = raw[: len(raw) // 2]
    assert quick_jpeg(cut, opened(cut), 256) is None
    with pytest.raises(InvalidImage, match="ends before the picture is whole"):
        decode(cut, network=SQUEEZENET, max_pixels=10**7)


def test_a_file_that_tells_the_decoders_two_sizes_is_left_to_pillow(cat: Image.Image) -> None:
    raw = jpeg(cat.resize((1300, 1100)))
    other = opened(jpeg(cat.resize((1301, 1100))))
    assert quick_jpeg(raw, other, 256) is None
