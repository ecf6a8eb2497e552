"""TIFF of scanners, microscopes and satellites: right, or refused in words."""

import io
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from contracts.errors import ImageTooLarge, InvalidImage
from models.catalog import CATALOG
from models.images.decode import DecodedImage, decode
from models.images.levels import scale_integers
from tests.images import display_p3, encoded, rgb16_png, scene

NETWORK = CATALOG["squeezenet"]


def read(data: bytes, max_pixels: int = 1_000_000) -> DecodedImage:
    return decode(data, network=NETWORK, resize="squash", max_pixels=max_pixels)


def difference(data: bytes, expected: Image.Image) -> int:
    size = NETWORK.input_size[::-1]
    small = np.asarray(expected.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    return int(np.abs(read(data).pixels.astype(int) - small).max())


def tiff(
    levels: npt.NDArray[Any], *, separate: bool = False, order: str = "<", **tags: int | bytes
) -> bytes:
    """A TIFF of several bands, written by hand; Pillow cannot write them. One strip a plane."""
    height, width, bands = levels.shape
    planes = [levels[..., band] for band in range(bands)] if separate else [levels]
    strips = [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
    bits, kind = levels.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[levels.dtype.kind]
    offsets = [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    fields: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * bands),
        259: ("H", [1]),
        262: ("H", [2 if bands >= 3 else 1]),
        273: ("I", offsets),
        277: ("H", [bands]),
        278: ("I", [height]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [2 if separate else 1]),
        339: ("H", [kind] * bands),
    } | {int(name[1:]): _field(value) for name, value in tags.items()}
    body = b"".join(strips)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(body))
    return head + body + directory(fields, 8 + len(body), order)


def _field(value: int | bytes) -> tuple[str, list[int]]:
    return ("H", [value]) if isinstance(value, int) else ("B", list(value))


def directory(fields: dict[int, tuple[str, list[int]]], at: int, order: str = "<") -> bytes:
    """A directory that begins at a position of the file."""
    entries, extra = b"", b""
    extra_at = at + 2 + 12 * len(fields) + 4
    for tag, (letter, values) in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack(order + "I", extra_at + len(extra)), extra + packed
        entries += struct.pack(order + "HHI", tag, {"H": 3, "I": 4, "B": 7}[letter], len(values))
        entries += packed.ljust(4, b"\0")
    return struct.pack(order + "H", len(fields)) + entries + bytes(4) + extra


COLORS = np.asarray(scene())


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["16", "14", "12", "10", "8", "float", "float 255"])
def test_deep_colors_are_scaled(kind: str, order: str, separate: bool) -> None:
    levels = {
        "16": COLORS.astype(np.uint16) * 257,
        "14": (COLORS.astype(np.uint32) * 16383 // 255).astype(np.uint16),
        "12": COLORS.astype(np.uint16) * 16,
        "10": COLORS.astype(np.uint16) * 4,
        "8": COLORS.astype(np.uint16),
        "float": (COLORS / 255).astype(np.float32),
        "float 255": COLORS.astype(np.float32),
    }[kind]
    assert difference(tiff(levels, separate=separate, order=order), scene()) <= 2


def test_alpha_and_orientation_of_deep_colors() -> None:
    alpha = np.zeros((*COLORS.shape[:2], 1), np.uint16)
    levels = np.dstack([COLORS.astype(np.uint16) * 257, alpha])
    assert read(tiff(levels, t338=2)).pixels.min() == 255
    assert difference(tiff(levels, t338=0), scene()) <= 1  # an infrared band, for example
    turned = np.rot90(COLORS).astype(np.uint16) * 257
    data = tiff(turned, t274=6)
    assert (read(data).width, read(data).height) == scene().size
    assert difference(data, scene()) <= 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_compressed_deep_colors(compression: str, predictor: int) -> None:
    """Pillow writes no deep colors, so each strip is written as three columns of gray."""
    levels = COLORS.astype(np.int32) * 257
    if predictor == 2:
        levels[:, 1:] -= levels[:, :-1].copy()
    wide = (levels & 0xFFFF).astype(np.uint16).reshape(64, 3 * 96)
    data = encoded(Image.fromarray(wide), "TIFF", compression=compression)
    with Image.open(io.BytesIO(data)) as image:
        tags = dict(image.tag_v2)  # type: ignore[attr-defined]
    fields: dict[int, tuple[str, list[int]]] = {
        256: ("I", [96]),
        257: ("I", [64]),
        258: ("H", [16] * 3),
        259: ("H", [tags[259]]),
        262: ("H", [2]),
        273: ("I", list(tags[273])),
        277: ("H", [3]),
        278: ("I", [tags[278]]),
        279: ("I", list(tags[279])),
        317: ("H", [predictor]),
    }
    whole = data[:4] + struct.pack("<I", len(data)) + data[8:] + directory(fields, len(data))
    assert difference(whole, scene()) <= 1


@pytest.mark.parametrize(
    ("levels", "word"),
    [
        (COLORS.astype(np.uint32), "32 bits"),
        (COLORS.astype(np.float64), "64 bits"),
        (COLORS.astype(np.int16), "16 bits"),
        (COLORS[..., :1].astype(np.int8), "signed"),
        (np.dstack([COLORS, COLORS]), "6 bands"),
        (np.full((4, 4, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_other_kinds_are_refused_in_words(levels: npt.NDArray[Any], word: str) -> None:
    with pytest.raises(InvalidImage, match=word):
        read(tiff(levels))


def test_size_and_tiles_of_deep_colors_are_limited() -> None:
    data = tiff(COLORS.astype(np.uint16))
    with pytest.raises(ImageTooLarge, match="96 x 64"):
        read(data, 96 * 64 - 1)
    with pytest.raises(ImageTooLarge, match="tiles"):
        read(tiff(COLORS.astype(np.uint16), t322=32768, t323=32768))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_levels_of_cameras_in_16_bits_of_gray(image_format: str, bits: int) -> None:
    gray = np.asarray(scene().convert("L")).astype(np.uint32)
    gray[0, 0] = 255
    levels = (gray * (2**bits - 1) // 255).astype(np.uint16)
    expected = Image.fromarray(gray.astype(np.uint8))
    assert difference(encoded(Image.fromarray(levels), image_format), expected) <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.float32])
def test_gray_of_either_order_of_bytes(order: str, kind: type) -> None:
    levels = (np.asarray(scene().convert("L")).astype(np.int32) * 16).astype(kind)
    levels[0, 0] = 255 * 16
    expected = Image.fromarray((levels.astype(int) * 255 // 4095).astype(np.uint8))
    assert difference(tiff(levels[..., None], order=order), expected) <= 2


@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_its_color_profile_counts(kind: str) -> None:
    levels = np.full((16, 16, 3), (200, 60, 40)) * (257 if kind == "u2" else 1 / 255)
    image = Image.new("RGB", (16, 16), (200, 60, 40))
    assert difference(tiff(levels.astype(kind)), image) <= 1
    described = encoded(image, "TIFF", icc_profile=display_p3())
    assert difference(described, image) > 10
    deep = tiff(levels.astype(kind), t34675=display_p3())
    assert difference(deep, Image.fromarray(read(described).pixels)) <= 1


def test_a_stated_white_level_counts() -> None:
    dim = np.full((4, 4, 3), 1000, np.uint16)
    assert scale_integers(dim).max() > 240
    assert scale_integers(dim, 4000).max() == 64
    assert scale_integers(dim * 0).max() == 0
    assert read(tiff(np.full((4, 4, 3), 1000, np.uint16), t281=4000)).pixels.max() == 64


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("factor", [1, 4, 16])
def test_color_png_of_12_bits_in_16_is_refused_in_words(factor: int, *, alpha: bool) -> None:
    levels = COLORS.astype(np.uint16)
    if alpha:
        levels = np.dstack([levels, np.full_like(levels[..., 0], 255)])
    with pytest.raises(InvalidImage, match="Save it with 8 bits"):
        read(rgb16_png(levels * factor))
    assert read(rgb16_png(COLORS.astype(np.uint16) * 0)).pixels.max() == 0


def test_a_black_color_png_of_16_bits_is_black_where_it_is_opaque() -> None:
    levels = np.zeros((*COLORS.shape[:2], 4), np.uint16)
    levels[: len(levels) // 2, :, 3] = 65535
    pixels = read(rgb16_png(levels)).pixels
    assert pixels.min() == 0
    assert pixels.max() == 255


@pytest.mark.parametrize("alpha", [False, True])
def test_color_png_of_14_bits_in_16_is_scaled(*, alpha: bool) -> None:
    levels = COLORS.astype(np.uint16) * 64
    if alpha:
        levels = np.dstack([levels, np.full_like(levels[..., 0], 65535)])
    assert difference(rgb16_png(levels), Image.fromarray(COLORS)) <= 5


def test_12_bits_of_gray_with_a_transparent_level_are_scaled() -> None:
    levels = COLORS[..., 0].astype(np.uint16) * 16
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG", transparency=7)
    expected = Image.fromarray(COLORS[..., 0]).convert("RGB")
    assert difference(file.getvalue(), expected) <= 2


def test_png_of_dark_16_bit_gray_with_alpha_is_refused() -> None:
    gray = COLORS[..., 0].astype(np.uint16)
    opaque = np.full_like(gray, 65535)
    with pytest.raises(InvalidImage, match="12 bits"):
        read(rgb16_png(np.dstack([gray * 16, opaque])))
    bright = read(rgb16_png(np.dstack([gray * 257, opaque]))).pixels
    assert bright.max() > 200


@pytest.mark.parametrize("tag", [273, 282, 40_000])
def test_millions_of_fractions_are_not_read(tag: int) -> None:
    count = 400_000
    body = bytes((1, 0, 0, 0)) * (2 * count)
    known = {256: (4, 1, 8), 257: (4, 1, 8), 258: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 8)}
    fields = known | {277: (3, 1, 1), 278: (4, 1, 8), 279: (4, 1, 64), tag: (5, count, 8)}
    data = b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(fields))
    data += b"".join(struct.pack("<HHII", *(at, *fields[at])) for at in sorted(fields)) + bytes(4)
    began = time.thread_time()
    with pytest.raises(InvalidImage, match=r"too many (fractions|tiny strips)"):
        read(data)
    assert time.thread_time() - began < 0.5  # not seconds


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_tiff_of_a_strip_for_each_of_its_million_rows_is_refused(kind: type) -> None:
    rows, bits = 1_000_000, 8 * np.dtype(kind).itemsize
    places = struct.pack("<I", 8) * rows
    fields = {256: (4, 1), 257: (4, rows), 258: (3, bits), 259: (3, 1), 262: (3, 1), 277: (3, 2)}
    entries = [struct.pack("<HHII", tag, value[0], 1, value[1]) for tag, value in fields.items()]
    entries.insert(5, struct.pack("<HHII", 273, 4, rows, 8))
    data = b"II*\0" + struct.pack("<I", 8 + len(places)) + places + struct.pack("<H", 7)
    began = time.thread_time()
    with pytest.raises(InvalidImage, match="tiny strips"):
        read(data + b"".join(entries) + bytes(4))
    assert time.thread_time() - began < 0.5  # not seconds


def big_tiff(entries: list[bytes], values: bytes = b"") -> bytes:
    """A BigTIFF of 8 x 8 levels of gray with further entries; `values` follow the directory."""
    known = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 16, 277: 1, 278: 8, 279: 64}
    all_entries = [struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in known.items()]
    all_entries += entries
    head = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(all_entries))
    return head + b"".join(all_entries) + bytes(8) + values


@pytest.mark.parametrize("kind", [3, 6])
def test_millions_of_numbers_in_a_tag_are_not_read(kind: int) -> None:
    """16 kB when compressed; as Python objects they would take 800 MB in each thread."""
    count = 8_000_000
    at = 24 + 20 * 10 + 8
    entry = struct.pack("<HHQQ", 40_000, kind, count // (2 if kind == 3 else 1), at)
    data = big_tiff([entry], b"\x80" * count)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidImage, match="too many numbers"):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data)
    finally:
        tracemalloc.stop()


def test_a_directory_of_a_hundred_thousand_tags_is_refused_before_they_are_read() -> None:
    entries = [struct.pack("<HHQQ", 1000, 7, 1 << 40, 0)] * 100_000
    with pytest.raises(InvalidImage, match="more than 4,096 tags"):
        read(big_tiff(entries))
    assert read(big_tiff([])).width == 8
