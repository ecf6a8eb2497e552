import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contracts.errors import InvalidImage
from models.catalog import CATALOG
from models.images.decode import decode
from models.images.jpeg import decode_jpeg_reduced
from models.images.resize import ORIENTATIONS, UPRIGHT, Orientation, fit

SQUEEZENET = CATALOG["squeezenet"]


def jpeg(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, **options)
    return out.getvalue()


def opened(raw: bytes) -> Image.Image:
    return Image.open(io.BytesIO(raw))


def reference(raw: bytes, orientation: Orientation = UPRIGHT) -> np.ndarray:
    image = opened(raw).convert("RGB")
    return np.asarray(fit(image, network=SQUEEZENET, resize=None, orientation=orientation)).astype(
        int
    )


@pytest.fixture(scope="module")
def cat(photos: Path) -> Image.Image:
    with Image.open(photos / "cat.png") as image:
        return image.convert("RGB")


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(500, 375), (411, 313), (240, 180)])
def test_pixels_at_full_size_equal_pillows(
    cat: Image.Image, mode: str, size: tuple[int, int]
) -> None:
    raw = jpeg(cat.convert(mode).resize(size))
    reduced = decode_jpeg_reduced(raw, opened(raw), 256)
    assert reduced is None
    decoded = decode(raw, network=SQUEEZENET, max_pixels=10**7).pixels
    np.testing.assert_array_equal(decoded, reference(raw))


@pytest.mark.parametrize(
    ("short", "expected"),
    [(900, None), (1023, None), (1024, 512), (2047, 1024), (2048, 512), (4096, 512)],
)
def test_only_scales_that_are_fast_are_used(
    cat: Image.Image, short: int, expected: int | None
) -> None:
    raw = jpeg(cat.resize((short + 8, short)))
    reduced = decode_jpeg_reduced(raw, opened(raw), 256)
    assert (None if reduced is None else min(reduced.size)) == expected


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_large_jpeg_is_reduced_with_mean_error_below_one_level(
    cat: Image.Image, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    raw = jpeg(cat.resize((2403, 1801)), exif=exif)
    reduced = decode_jpeg_reduced(raw, opened(raw), 256)
    assert reduced is not None
    assert 512 <= min(reduced.size) <= 901  # half, rounded up
    image = decode(raw, network=SQUEEZENET, max_pixels=10**7)
    assert {image.width, image.height} == {2403, 1801}
    difference = np.abs(image.pixels - reference(raw, ORIENTATIONS[orientation]))
    assert difference.mean() < 1
    assert np.quantile(difference, 0.99) <= 4


def test_cmyk_and_truncated_data_are_left_to_pillow(cat: Image.Image) -> None:
    cmyk = jpeg(cat.resize((1300, 1100)).convert("CMYK"))
    assert decode_jpeg_reduced(cmyk, opened(cmyk), 256) is None
    raw = jpeg(cat.resize((1300, 1100)))
    assert decode_jpeg_reduced(raw, opened(raw), 256) is not None
    cut = raw[: len(raw) // 2]
    assert decode_jpeg_reduced(cut, opened(cut), 256) is None
    with pytest.raises(InvalidImage, match="ends before the image is complete"):
        decode(cut, network=SQUEEZENET, max_pixels=10**7)


def test_conflicting_sizes_are_left_to_pillow(cat: Image.Image) -> None:
    raw = jpeg(cat.resize((1300, 1100)))
    other = opened(jpeg(cat.resize((1301, 1100))))
    assert decode_jpeg_reduced(raw, other, 256) is None
