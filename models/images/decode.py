"""From the bytes of a client to the input of a network. Every image passes through here.

Whatever the bytes are, `decode` ends in a `DecodedImage`, in `InvalidImage` or in `ImageTooLarge`,
within bounded time and bounded memory (at most sixteen bytes per pixel of the limit).
"""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

# Imported by name, so that Image.open finds them registered and does not import all others.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from contracts.errors import ImageTooLarge, InvalidImage, OpsinError
from contracts.inference.inference import Resize
from contracts.inference.manifest import Geometry
from models.images.color import flatten, interpolable
from models.images.formats import ImageFormat, sniff
from models.images.jpeg import decode_jpeg_reduced
from models.images.resize import (
    ORIENTATIONS,
    UPRIGHT,
    ImageInput,
    Orientation,
    fit,
    geometry_of,
    resized_size,
    within,
)

REGISTERED: Final = (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

_ORIENTATION = 274  # EXIF and TIFF tag
_ORIENTATION_SOURCES = {"exif", "xmp"}  # where Pillow looks for it in a JPEG
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
# A camera writes about ten scans, an encoder's own script seldom thirty. Each one costs a pass
# over all pixels and as little as 70 bytes, so 16 MiB could keep a core busy for an hour.
_MAX_SCANS = 64
# A real file is read in some hundreds to thousands of pieces. One made of millions of tiny
# chunks keeps Pillow's Python loops, and with them the interpreter lock, busy for many seconds.
_MAX_READS = 400_000
# Pillow decodes run-length BMP in Python: 5 kB that claim 50 megapixels keep it busy for 15 s.
_MAX_RUN_LENGTH_PIXELS = 4_000_000
_RUN_LENGTH = (1, 2)  # BMP's numbers for RLE8 and RLE4


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How an image is prepared for a network, without the network.

    Attributes:
        input_size: (height, width) in pixels.
        short_side: Pixels of the short side before cropping, see `models.images.resize`.
        geometry: How an image becomes the input, see `contracts.inference.manifest.Geometry`.
    """

    input_size: tuple[int, int]
    short_side: int
    geometry: Geometry = "short_side"

    @classmethod
    def square(cls, side: int) -> "InputSpec":
        """The middle of an image, `side` pixels wide and high."""
        return cls((side, side), side)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One decoded image, ready for a network.

    Attributes:
        pixels: RGB at the network's input size, shape (height, width, 3), uint8.
        width: Width of the client's image in pixels, upright.
        height: Height of the client's image in pixels, upright.
        full_size: The image itself, RGB on white, as from `decode_upright`; None if not kept.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    full_size: Image.Image | None = None


def decode(
    data: bytes | memoryview,
    *,
    network: ImageInput,
    resize: Resize | None = None,
    max_pixels: int,
    keep_pixels: int = 0,
) -> DecodedImage:
    """Decode, turn upright, resize and flatten one image.

    Takes the first frame of an animation and the first page of a TIFF. Transparent parts become
    white. Color profiles are not applied.

    Args:
        resize: ``crop`` or ``squash``, see `models.images.resize.fit`; None for the network's own
            way.
        max_pixels: Largest width times height, checked before any pixel is decoded. Pillow's own
            limit of 179 megapixels remains in force above it.
        keep_pixels: Keep the full-size image if it has no more pixels than this and had to be
            decoded at full size.

    Raises:
        InvalidImage: The data is not a complete, readable image in an accepted format.
        ImageTooLarge: The image has more than `max_pixels`.
    """
    with _opened(data, max_pixels) as (raw, image):
        reduced = decode_jpeg_reduced(raw, image, _needed_short_side(image, network, resize))
        if reduced is None:
            image.load()
        orientation = _orientation_of(image)
        small = fit(
            interpolable(image) if reduced is None else reduced,
            network=network,
            resize=resize,
            orientation=orientation,
            size=image.size,
        )
        upright_width, upright_height = orientation.upright_size(image.size)
        pixels = np.asarray(flatten(small, image))
        keep = reduced is None and image.width * image.height <= keep_pixels
        full_size = _upright(image, orientation) if keep else None
    return DecodedImage(pixels, upright_width, upright_height, full_size)


def _needed_short_side(image: Image.Image, network: ImageInput, resize: Resize | None) -> int:
    """Pixels of the image's short side that leave the network's input its full resolution."""
    height, width = network.input_size
    geometry = geometry_of(network, resize)
    if geometry == "short_side" or width == height:
        return network.short_side
    # Its orientation is not known yet, so both ways are considered.
    sizes = (image.size, image.size[::-1])
    scales = (
        max(wide / size[0], high / size[1])
        for size in sizes
        for wide, high in (resized_size(size, network, geometry),)
    )
    return math.ceil(max(scales) * min(image.size))


def decode_upright(data: bytes | memoryview, *, max_pixels: int) -> Image.Image:
    """Decode an image at its own size: RGB on white, upright.

    Raises:
        InvalidImage: As `decode`.
        ImageTooLarge: As `decode`.
    """
    with _opened(data, max_pixels) as (_, image):
        image.load()
        return _upright(image, _orientation_of(image))


def decode_reduced(data: bytes | memoryview, *, longest_side: int, max_pixels: int) -> DecodedImage:
    """Decode an image, upright and scaled down until no side is longer than `longest_side`.

    A smaller image keeps its size.

    Raises:
        InvalidImage: As `decode`.
        ImageTooLarge: As `decode`.
    """
    with _opened(data, max_pixels) as (raw, image):
        size = within(image.size, longest_side)
        small = decode_jpeg_reduced(raw, image, min(size))
        if small is None:
            image.load()
            # Pillow has turned a TIFF upright while loading it.
            size = within(image.size, longest_side)
            small = interpolable(image)
        if small.size != size:
            small = small.resize(size, Image.Resampling.BILINEAR)
        orientation = _orientation_of(image)
        upright = orientation.apply(flatten(small, image))
        width, height = orientation.upright_size(image.size)
    return DecodedImage(np.asarray(upright), width, height)


def _upright(image: Image.Image, orientation: Orientation) -> Image.Image:
    """A loaded image in RGB on white, upright."""
    return orientation.apply(flatten(interpolable(image), image))


@contextmanager
def _opened(data: bytes | memoryview, max_pixels: int) -> Iterator[tuple[bytes, Image.Image]]:
    """Check an image and open it without decoding; translate errors of the block.

    Yields the data as bytes (which costs nothing if it is bytes already) and the image.
    """
    raw = bytes(data)
    image_format = sniff(raw)
    try:
        _check_scans(raw, image_format)
        with _open(raw, image_format, max_pixels) as image:
            _check_size(image, max_pixels)
            yield raw, image
    except OpsinError:
        raise
    except Exception as error:  # Pillow documents no closed set of errors
        raise _invalid(image_format, error) from error


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


def _open(raw: bytes, image_format: ImageFormat, max_pixels: int) -> Image.Image:
    """Read the header of an image, but none of its pixels."""
    try:
        return Image.open(_MeteredReader(raw), formats=[image_format])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        # Pillow's own limit: three and a half times our default one.
        raise ImageTooLarge(
            f"The image has far more pixels than the {max_pixels:,} that are accepted. "
            "Scale it down and send it again."
        ) from None


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} = {width * height:,} pixels; at most "
            f"{max_pixels:,} are accepted. Scale it down and send it again."
        )
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTH:
        _check_run_length(width * height)
    # A small TIFF may contain one huge tile, which is decoded completely to show a corner of it.
    tags: Any = getattr(image, "tag_v2", {})
    tile = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    # A hostile tag may be a tuple, and a tuple times a number is a very long tuple.
    if all(isinstance(side, int) for side in tile) and tile[0] * tile[1] > max_pixels:
        raise ImageTooLarge(
            f"The TIFF is stored in tiles of more than {max_pixels:,} pixels. "
            "Save it again with smaller tiles, or as PNG."
        )


def _check_run_length(pixels: int) -> None:
    if pixels > _MAX_RUN_LENGTH_PIXELS:
        raise ImageTooLarge(
            f"A run-length encoded BMP may have {_MAX_RUN_LENGTH_PIXELS:,} pixels; this one has "
            f"{pixels:,}. Save it again as PNG."
        )


def _check_scans(raw: bytes, image_format: ImageFormat) -> None:
    if image_format != "JPEG":
        return
    # Inside the entropy-coded data 0xFF is always followed by a zero, so this counts real markers.
    # NumPy needs a third of the time of `bytes.count`.
    coded = np.frombuffer(raw, np.uint8)
    if np.count_nonzero((coded[:-1] == 0xFF) & (coded[1:] == 0xDA)) > _MAX_SCANS:
        raise InvalidImage(
            f"The JPEG has more than {_MAX_SCANS} progressive scans. "
            "Save it again as a plain (baseline) JPEG."
        )


def _orientation_of(image: Image.Image) -> Orientation:
    """The EXIF orientation; upright if it cannot be read.

    Pillow turns a TIFF upright when it loads it and removes the tag.
    """
    if image.format == "JPEG" and not image.info.keys() & _ORIENTATION_SOURCES:
        return UPRIGHT  # reading an empty EXIF block takes longer than opening the file did
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  broken EXIF must not cost a good image
        return UPRIGHT
    return ORIENTATIONS.get(orientation, UPRIGHT) if isinstance(orientation, int) else UPRIGHT


def _invalid(image_format: ImageFormat, error: Exception) -> InvalidImage:
    # Pillow's messages may contain a memory address, so they are not passed on.
    if "truncated" in str(error):
        return InvalidImage(
            f"The {image_format} data ends before the image is complete. Send all of the file."
        )
    return InvalidImage(
        f"The {image_format} data is damaged or of a kind that is not supported. "
        "Check that the complete file was sent, or save it again as a plain JPEG or PNG."
    )
