"""Opens an image whatever its format: the checks before decoding, and who decodes what.

Nothing is decoded before the header's width and height are known to be within the limit. Pillow
decodes when the image is loaded, the other readers when it is opened.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

# Imported by name, so that Image.open finds them registered and does not import all others.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from contracts.errors import ImageTooLarge, InvalidImage, OpsinError
from models.images.formats import ImageFormat, sniff
from models.images.gate import (
    ISOLATED_PIXELS,
    LARGE_PIXELS,
    REDUCED_JPEG_PIXELS,
    WEBP_PIXELS,
    Gate,
    LargeImageError,
    at_once,
)
from models.images.isolated import decode_isolated, size_of, too_large
from models.images.jpeg import is_complete
from models.images.jpeg_structure import END_MARKER, read_structure
from models.images.netpbm import decode_netpbm, read_header
from models.images.png import is_black, only_needed, without_checksum
from models.images.tiff import open_deep_tiff

REGISTERED: Final = (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

_PNG_COLORS = (2, 4, 6)  # RGB, gray with alpha, RGBA
_DARK, _DIM = 15, 63  # the high byte of 12 bits, and of 14
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
# A real file is read in some hundreds to thousands of pieces. One made of millions of tiny
# chunks keeps Pillow's Python loops, and with them the interpreter lock, busy for many seconds.
_MAX_READS = 400_000
# Pillow decodes run-length BMP in Python: 5 kB that claim 50 megapixels keep it busy for 15 s.
_MAX_RUN_LENGTH_PIXELS = 4_000_000
_RUN_LENGTH = (1, 2)  # BMP's numbers for RLE8 and RLE4


@dataclass(frozen=True, slots=True)
class _Header:
    """An image of which only the header has been read and checked.

    Attributes:
        raw: Its data, without what follows it in a file.
        pixels: Number of pixels that are decoded.
        open: Decodes it, or prepares that it is decoded when it is loaded.
        most: With more pixels than this, it is large.
    """

    raw: bytes
    pixels: int
    open: Callable[[], Image.Image]
    most: int = LARGE_PIXELS


@contextmanager
def opened(
    data: bytes | memoryview, max_pixels: int, large: Gate = at_once
) -> Iterator[tuple[bytes, Image.Image]]:
    """Check an image and open it; translate errors of the block.

    `large` is entered before a large image is decoded, see `models.images.gate`.

    Yields the image's own data (without what follows it in a file) and the image, which still has
    to be loaded.

    Raises:
        InvalidImage: The data is not a complete, readable image in an accepted format.
        ImageTooLarge: The image has more than `max_pixels`.
    """
    raw = bytes(data)  # which costs nothing if it is bytes already
    image_format = sniff(raw)
    try:
        header = _read_header(raw, image_format, max_pixels)
        gate = large(header.pixels) if header.pixels > header.most else nullcontext()
        with gate, header.open() as image:
            yield header.raw, image
    except (OpsinError, LargeImageError):
        raise
    except Exception as error:  # Pillow documents no closed set of errors
        raise _invalid(image_format, error) from error


def _read_header(raw: bytes, image_format: ImageFormat, max_pixels: int) -> _Header:
    match image_format:
        case "JPEG":
            return _jpeg_header(raw, max_pixels)
        case "HEIF" | "AVIF":
            pixels = _require_size(size_of(raw), max_pixels)
            decode = partial(decode_isolated, raw, image_format, pixels)
            return _Header(raw, pixels, decode, most=ISOLATED_PIXELS)
        case "PPM":
            netpbm = read_header(raw)
            pixels = _require_size(netpbm.size, max_pixels)
            return _Header(raw, pixels, partial(decode_netpbm, raw, netpbm))
        case "TIFF" if (deep := open_deep_tiff(raw)) is not None:
            pixels = _require_size(deep.size, max_pixels)
            pixels = max(pixels, _require_small_tiles(deep.tags, max_pixels))
            return _Header(raw, pixels, deep.decode)
        case "PNG":
            raw = only_needed(raw)
    return _pillow_header(raw, image_format, max_pixels)


def _jpeg_header(raw: bytes, max_pixels: int) -> _Header:
    """The header of a JPEG without what follows it; its end marker may be missing."""
    end = read_structure(raw).end
    if end is None:
        raw = raw.removesuffix(END_MARKER[:1]) + END_MARKER
    elif end < len(raw):
        raw = raw[:end]
    # Not by Image.open, which looks for the further images of a multi-picture file.
    image = _Jpeg(_MeteredReader(raw))
    pixels = _require_size(image.size, max_pixels)

    def open_() -> Image.Image:
        if end is None and not is_complete(raw, image.size):
            raise _cut_off("JPEG")
        return image

    # A progressive one is decoded at full size, scan by scan.
    most = LARGE_PIXELS if image.info.get("progressive") else REDUCED_JPEG_PIXELS
    return _Header(raw, pixels, open_, most)


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG whose size on paper is not looked for: in its place may be two million fractions."""

    def _read_dpi_from_exif(self) -> None:
        """Leave it out."""


class _MeteredReader(io.BytesIO):
    """A file in memory that allows a limited number of reads, see `_MAX_READS`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise InvalidImage(
                "The image consists of too many tiny pieces. Save it again with another program."
            )
        return super().read(size)


def _pillow_header(raw: bytes, image_format: ImageFormat, max_pixels: int) -> _Header:
    """The header of an image that Pillow decodes."""
    try:
        image = Image.open(_MeteredReader(raw), formats=[image_format])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own limit: more than three times our default one.
        raise ImageTooLarge(
            f"The image has far more pixels than the {max_pixels:,} that are accepted. "
            "Scale it down and send it again."
        ) from None
    pixels = _require_size(image.size, max_pixels)
    pixels = max(pixels, _require_small_tiles(getattr(image, "tag_v2", {}), max_pixels))
    if image_format == "BMP" and image.info.get("compression") in _RUN_LENGTH:
        _check_run_length(pixels)
    if image_format == "PNG":
        return _Header(raw, pixels, partial(_load_png, image, raw))
    most = WEBP_PIXELS if image_format == "WEBP" else LARGE_PIXELS
    return _Header(raw, pixels, lambda: image, most)


def _require_size(size: tuple[int, int], max_pixels: int) -> int:
    """The number of pixels, which is within the limit."""
    if size[0] * size[1] > max_pixels:
        raise too_large(*size, max_pixels)
    return size[0] * size[1]


def _require_small_tiles(tags: Mapping[int, Any], max_pixels: int) -> int:
    """The pixels of a tile: a small TIFF may contain a huge one, which is decoded completely."""
    tile = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    # A hostile tag may be a tuple, and a tuple times a number is a very long tuple.
    if not all(isinstance(side, int) for side in tile):
        return 0
    if tile[0] * tile[1] > max_pixels:
        raise ImageTooLarge(
            f"The TIFF is stored in tiles of more than {max_pixels:,} pixels. "
            "Save it again with smaller tiles, or as PNG."
        )
    return int(tile[0] * tile[1])


def _check_run_length(pixels: int) -> None:
    if pixels > _MAX_RUN_LENGTH_PIXELS:
        raise ImageTooLarge(
            f"A run-length encoded BMP may have {_MAX_RUN_LENGTH_PIXELS:,} pixels; this one has "
            f"{pixels:,}. Save it again as PNG."
        )


def _load_png(image: Image.Image, raw: bytes) -> Image.Image:
    """Load it, even if the checksum over all pixels was written wrong, as browsers do."""
    try:
        image.load()
    except OSError:
        whole = without_checksum(raw)
        if whole is None:
            raise
        image = Image.open(_MeteredReader(whole), formats=["PNG"])
        image.load()
    if raw[24] == 16 and raw[25] in _PNG_COLORS:
        return _scaled_deep_png(image, raw)
    return image


def _scaled_deep_png(image: Image.Image, raw: bytes) -> Image.Image:
    """Scale levels of 14 bits, and refuse what Pillow makes (almost) black.

    It drops the low byte of most 16-bit kinds.
    """
    brightest = max(int(high) for _, high in image.getextrema()[:3])  # type: ignore[misc]
    if brightest > _DIM or (brightest == 0 and is_black(raw)):
        return image
    if brightest <= _DARK:
        raise InvalidImage(
            "The PNG has 16-bit colors of which at most the lowest 12 bits are used. "
            "Save it with 8 bits."
        )
    alpha = image.getchannel("A") if "A" in image.getbands() else None
    scaled = image.convert("RGB").point([min(255, level * 255 // _DIM) for level in range(256)] * 3)
    if alpha is not None:
        scaled.putalpha(alpha)
    scaled.info = image.info
    return scaled


def _invalid(image_format: ImageFormat, error: Exception) -> InvalidImage:
    # Pillow's messages may contain a memory address, so they are not passed on.
    if "truncated" in str(error):
        return _cut_off(image_format)
    return InvalidImage(
        f"The {image_format} data is damaged or of a kind that is not supported. "
        "Check that the complete file was sent, or save it again as a plain JPEG or PNG."
    )


def _cut_off(image_format: ImageFormat) -> InvalidImage:
    return InvalidImage(
        f"The {image_format} data ends before the image is complete. Send all of the file."
    )
