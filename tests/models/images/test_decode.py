"""Every image is either decoded correctly or refused with an error code."""

import io
import random
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from contracts.errors import ImageTooLarge, InvalidImage
from models.catalog import CATALOG
from models.images.decode import DecodedImage, decode, decode_upright
from tests.images import (
    FORMATS,
    animation,
    encoded,
    good_images,
    hostile_images,
    oriented,
    palette_with_alpha,
    rgb16_png,
    scene,
)

MEGAPIXEL = 1_000_000
NETWORK = CATALOG["squeezenet"]
GOOD = good_images()
HOSTILE = hostile_images()
# Pillow warns of oddities in a file and goes on; in a test a warning would be an error.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL.PngImagePlugin"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]


def read(data: bytes, resize: str = "squash") -> DecodedImage:
    return decode(data, network=NETWORK, resize=resize, max_pixels=52 * MEGAPIXEL)  # type: ignore[arg-type]


def pixels_of(image: Image.Image) -> npt.NDArray[np.int16]:
    """The expected pixels of an RGB image: squashed, bilinear, antialiased."""
    size = NETWORK.input_size[::-1]
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR)).astype(np.int16)


def off_by(data: bytes, expected: Image.Image) -> int:
    """The largest difference of any level between the decoded and the expected image."""
    return int(np.abs(read(data).pixels - pixels_of(expected)).max())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_image_is_decoded_or_refused_with_its_code(name: str) -> None:
    data, code = HOSTILE[name]
    started = time.monotonic()
    if code is None:
        image = read(data, "crop")
        assert image.pixels.shape == (*NETWORK.input_size, 3)
        assert image.pixels.dtype == np.uint8
    else:
        with pytest.raises((InvalidImage, ImageTooLarge)) as refused:
            read(data, "crop")
        assert refused.value.code == code
        assert refused.value.detail.endswith(".")
        assert " object at 0x" not in refused.value.detail
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("name", GOOD)
def test_kept_image_is_the_upright_image(name: str) -> None:
    given = {"network": NETWORK, "max_pixels": 52 * MEGAPIXEL}
    kept = decode(GOOD[name], keep_pixels=MEGAPIXEL, **given)
    expected = decode_upright(GOOD[name], max_pixels=52 * MEGAPIXEL)
    assert kept.full_size is not None
    assert (kept.full_size.mode, kept.full_size.size) == ("RGB", (kept.width, kept.height))
    np.testing.assert_array_equal(np.asarray(kept.full_size), np.asarray(expected))
    np.testing.assert_array_equal(kept.pixels, decode(GOOD[name], **given).pixels)


def test_large_image_is_not_kept() -> None:
    small, large = encoded(scene(), "PNG"), encoded(scene().resize((3000, 2000)), "JPEG")
    size = scene().width * scene().height
    for data, keep in ((small, 0), (small, size - 1), (large, 52 * MEGAPIXEL)):
        image = decode(data, network=NETWORK, max_pixels=52 * MEGAPIXEL, keep_pixels=keep)
        assert image.full_size is None


def test_refusal_says_what_was_sent() -> None:
    for name, word in (("PDF", "PDF"), ("JPEG XL", "JPEG XL"), ("text called photo.png", "text")):
        with pytest.raises(InvalidImage, match=word):
            read(HOSTILE[name][0])
    with pytest.raises(InvalidImage, match="Send all of the file"):
        read(HOSTILE["truncated JPEG"][0])
    with pytest.raises(ImageTooLarge, match="60,000,000"):
        read(HOSTILE["60-megapixel bomb"][0])


def test_image_at_the_pixel_limit_is_accepted() -> None:
    data = encoded(scene(100, 50), "PNG")
    assert decode(data, network=NETWORK, max_pixels=5000).width == 100
    with pytest.raises(ImageTooLarge):
        decode(data, network=NETWORK, max_pixels=4999)


def test_truncated_jpeg_is_refused() -> None:
    photo = encoded(scene(320, 240), "JPEG", quality=90)
    for end in range(1, len(photo) - 2, 37):
        with pytest.raises(InvalidImage):
            read(photo[:end])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation_is_applied_once(image_format: str, orientation: int) -> None:
    data = oriented(orientation, image_format)
    image = read(data)
    assert (image.width, image.height) == scene().size
    assert off_by(data, scene()) <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_crop_is_the_same_for_every_orientation(orientation: int) -> None:
    decode_upright = read(oriented(1, "PNG"), "crop").pixels.astype(int)
    turned = read(oriented(orientation, "PNG"), "crop").pixels
    assert np.abs(turned - decode_upright).max() <= 1


def test_broken_exif_is_ignored() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\1\x12"):
        assert off_by(encoded(scene(), "PNG", exif=exif), scene()) == 0


def test_transparent_pixels_become_white() -> None:
    pixels = read(palette_with_alpha()).pixels
    left, middle, right = pixels[100, 10], pixels[100, 113], pixels[100, -10]
    assert left.tolist() == [255, 0, 0]
    assert np.abs(middle.astype(int) - [127, 127, 255]).max() <= 1
    assert right.tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_like_pillow(mode: str) -> None:
    image = scene()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image = image.convert(mode)
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    assert off_by(encoded(image, "PNG"), expected) <= 2


def test_transparent_level_of_16_bit_gray_png_becomes_white() -> None:
    levels = np.full((40, 60), 0x8000, np.uint16)
    levels[:, 30:] = 0x1234
    data = encoded(Image.fromarray(levels), "PNG", transparency=0x1234)
    pixels = read(data).pixels
    assert pixels[100, 20].tolist() == [128] * 3
    assert pixels[100, -20].tolist() == [255] * 3


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_and_not_clipped(image_format: str) -> None:
    eight = scene().convert("L")
    sixteen = Image.fromarray(np.asarray(eight).astype(np.uint16) * 257)
    assert off_by(encoded(sixteen, image_format), eight.convert("RGB")) <= 1


def test_16_bit_color_is_scaled_and_not_clipped() -> None:
    sixteen = np.asarray(scene()).astype(np.uint16) * 257
    assert off_by(rgb16_png(sixteen), scene()) <= 1


def test_white_is_zero_tiff_is_not_inverted() -> None:
    eight = scene().convert("L")
    sixteen = Image.fromarray(65535 - np.asarray(eight).astype(np.uint16) * 257)
    data = encoded(sixteen, "TIFF", tiffinfo={262: 0})
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.tag_v2[262] == 0  # type: ignore[attr-defined]
    assert off_by(data, eight.convert("RGB")) <= 1


@pytest.mark.parametrize(
    "scale", [lambda x: x / 255, lambda x: x, lambda x: x * 257, lambda x: x * 1e6 - 7]
)
def test_floats_are_scaled_by_their_range(scale: Callable[[object], object]) -> None:
    gray = np.asarray(scene().convert("L")).astype(np.float32)
    gray[0, 0], gray[-1, -1] = 0, 255
    data = encoded(Image.fromarray(np.asarray(scale(gray), np.float32)), "TIFF")
    assert off_by(data, Image.fromarray(gray.astype(np.uint8)).convert("RGB")) <= 1


def test_nan_levels_are_refused() -> None:
    data = encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF")
    with pytest.raises(InvalidImage, match="not finite"):
        read(data)


def test_cmyk_jpeg_is_not_inverted() -> None:
    # Adobe stores them inverted, and so does Pillow; 3 levels for the JPEG itself.
    data = encoded(scene().convert("CMYK"), "JPEG", quality=98, subsampling=0)
    assert b"Adobe" in data[:100]
    assert off_by(data, scene()) <= 12


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_is_its_first_frame(image_format: str) -> None:
    assert off_by(animation(image_format), Image.new("RGB", (40, 30), "red")) <= 2


def test_every_format_decodes_to_the_same_image() -> None:
    for image_format in FORMATS:
        # JPEG, WebP and AVIF lose a little, GIF has 256 colors.
        allowed = {"JPEG": 25, "WEBP": 25, "GIF": 40, "AVIF": 25}.get(image_format, 0)
        assert off_by(encoded(scene(), image_format), scene()) <= allowed, image_format


def test_memoryview_is_accepted() -> None:
    data = GOOD["plain PNG"]
    assert np.array_equal(
        decode(memoryview(data), network=NETWORK, max_pixels=MEGAPIXEL).pixels,
        decode(data, network=NETWORK, max_pixels=MEGAPIXEL).pixels,
    )


@settings(max_examples=300)
@given(
    name=st.sampled_from(sorted(GOOD)),
    seed=st.integers(0, 2**32),
    changes=st.integers(1, 40),
    head_only=st.booleans(),
)
def test_damaged_file_is_decoded_or_refused(
    name: str, seed: int, changes: int, head_only: bool
) -> None:
    data = bytearray(GOOD[name])
    dice = random.Random(seed)
    for _ in range(changes):
        at = dice.randrange(min(len(data), 200) if head_only else len(data))
        match dice.randrange(4):
            case 0:
                data[at] = dice.randrange(256)
            case 1:
                data[at] ^= 1 << dice.randrange(8)
            case 2:
                del data[at : at + dice.randrange(1, 9)]
                data = data or bytearray(b"\0")
            case _:
                data[at:at] = dice.randbytes(dice.randrange(1, 9))
    try:
        image = read(bytes(data), "crop")
    except (InvalidImage, ImageTooLarge):
        return
    assert image.pixels.shape == (*NETWORK.input_size, 3)
