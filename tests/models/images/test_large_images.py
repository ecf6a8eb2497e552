"""A large image is known by its header, whatever its format, and may be made to wait."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from PIL import Image

from contracts.errors import DeadlineExceeded
from models.images.decode import InputSpec, decode, decode_reduced, decode_upright
from models.images.gate import LargeImageError, refuse_large
from models.images.isolated import DecoderLimits
from tests.images import HEIC

NETWORK = InputSpec.square(16)
MAX_PIXELS = 52_000_000
BOMBS: dict[str, tuple[str, str, tuple[int, int], dict[str, Any]]] = {
    "webp": ("WEBP", "RGBA", (1500, 1500), {"lossless": True, "method": 0}),
    "gif": ("GIF", "L", (2100, 2100), {}),
    "png": ("PNG", "1", (2100, 2100), {}),
    "tiff": ("TIFF", "L", (2100, 2100), {"compression": "tiff_lzw"}),
    "bmp": ("BMP", "L", (2100, 2100), {}),
    "progressive jpeg": ("JPEG", "L", (2100, 2100), {"progressive": True}),
    "jpeg": ("JPEG", "L", (4100, 4100), {}),
}


def image_of(kind: str, mode: str, size: tuple[int, int], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_with_many_pixels_is_large(name: str) -> None:
    kind, mode, size, options = BOMBS[name]
    data = image_of(kind, mode, size, **options)
    assert len(data) < size[0] * size[1] * 1.1
    with pytest.raises(LargeImageError) as refused:
        decode(data, network=NETWORK, max_pixels=MAX_PIXELS, large=refuse_large)
    assert refused.value.pixels == size[0] * size[1]
    with pytest.raises(LargeImageError):
        decode_upright(data, max_pixels=MAX_PIXELS, large=refuse_large)
    with pytest.raises(LargeImageError):
        decode_reduced(data, longest_side=100, max_pixels=MAX_PIXELS, large=refuse_large)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_what_a_process_decodes_is_never_small(kind: str) -> None:
    """Its pixels say little about its time: one may have thousands of frames that are not shown."""
    heic = next(iter(sorted(HEIC.glob("*.heic")))).read_bytes()
    data = image_of("AVIF", "RGB", (64, 64)) if kind == "AVIF" else heic
    with pytest.raises(LargeImageError):
        decode(data, network=NETWORK, max_pixels=MAX_PIXELS, large=refuse_large)
    assert DecoderLimits.of(1_000_000).cpu_seconds < 10 < DecoderLimits.of(MAX_PIXELS).cpu_seconds


def test_a_phone_photo_is_not_large() -> None:
    data = image_of("JPEG", "RGB", (4000, 3000))
    image = decode(data, network=NETWORK, max_pixels=MAX_PIXELS, large=refuse_large)
    assert (image.width, image.height) == (4000, 3000)


def test_the_gate_is_held_while_a_large_image_is_decoded() -> None:
    passed: list[int] = []

    @contextmanager
    def gate(pixels: int) -> Iterator[None]:
        passed.append(pixels)
        yield
        passed.append(-pixels)

    data = image_of("PNG", "L", (2100, 2100))
    decode(data, network=NETWORK, max_pixels=MAX_PIXELS, large=gate)
    decode(image_of("PNG", "L", (100, 100)), network=NETWORK, max_pixels=MAX_PIXELS, large=gate)
    assert passed == [4_410_000, -4_410_000]


def test_an_error_of_the_gate_is_not_one_of_the_image() -> None:
    def closed(_pixels: int) -> Any:
        raise DeadlineExceeded("Too many large images.")

    data = image_of("PNG", "L", (2100, 2100))
    with pytest.raises(DeadlineExceeded):
        decode(data, network=NETWORK, max_pixels=MAX_PIXELS, large=closed)
