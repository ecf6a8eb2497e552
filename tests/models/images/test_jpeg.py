import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

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


def with_segments(raw: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with these segments in place of its JFIF header."""
    end = 4 + int.from_bytes(raw[4:6])
    added = [
        bytes((0xFF, kind)) + struct.pack(">H", len(data) + 2) + data for kind, data in segments
    ]
    return raw[:2] + b"".join(added) + raw[end:]


@pytest.mark.parametrize(
    ("kind", "data", "count"),
    [
        pytest.param(0xE1, b"Exif\0\0x", 65, id="blocks of EXIF"),
        pytest.param(0xDB, (b"\0" + b"\1" * 64) * 1000, 3, id="quantization"),
        pytest.param(0xC0, b"\x08\0\x40\0\x40\3" + b"\1\x11\0" * 20_000, 3, id="frames"),
    ],
)
def test_segments_that_pillow_reads_slowly_are_few(kind: int, data: bytes, count: int) -> None:
    """9 MB, or 20 kB of gzip, kept a thread and the interpreter's lock busy for a minute."""
    raw = jpeg(Image.new("RGB", (64, 64), "red"))
    with pytest.raises(InvalidImage, match="tiny pieces"):
        decode(with_segments(raw, *[(kind, data)] * count), network=SQUEEZENET, max_pixels=10**6)


def test_several_blocks_of_exif_are_read() -> None:
    blocks = [(0xE1, b"Exif\0\0x")] * 60
    raw = with_segments(jpeg(Image.new("RGB", (64, 64), "red")), *blocks)
    assert decode(raw, network=SQUEEZENET, max_pixels=10**6).width == 64


def test_the_size_on_paper_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its place may be two million fractions, which Pillow makes in Python."""
    made: list[object] = []
    monkeypatch.setattr(TiffImagePlugin, "IFDRational", lambda *values: made.append(values))
    count = 1000
    tags = struct.pack("<HHLHH", 0x128, 3, 1, 2, 0) + struct.pack("<HHLL", 0x11A, 5, count, 38)
    exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + tags + bytes(4) + struct.pack("<LL", 7, 3) * count
    raw = with_segments(jpeg(Image.new("RGB", (64, 64), "red")), (0xE1, exif))
    assert decode(raw, network=SQUEEZENET, max_pixels=10**6).width == 64
    assert made == []
