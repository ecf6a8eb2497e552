"""From bytes somebody sent to a network's input, and nothing else: the gate for hostile pictures.

Whatever the bytes are, `decode` ends in a `Picture`, in `InvalidImage` or in `ImageTooLarge`,
within a bounded time and a bounded memory (at most sixteen bytes a pixel of the limit).
"""

import io
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

# Imported by name so that Image.open finds them registered and does not import all the others.
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
from models.images.color import flatten, interpolable
from models.images.formats import ImageFormat, sniff
from models.images.jpeg import quick_jpeg
from models.images.resize import TURNS, UPRIGHT, Turn, fit, within

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
_TOLD_BY = {"exif", "xmp"}  # where Pillow looks for it in a JPEG
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
# A camera writes about ten scans, an encoder's own script seldom thirty. Each one costs a pass
# over all pixels and as little as 70 bytes, so that 16 MiB could keep a core busy for an hour.
_MOST_SCANS = 64
# A real file is read in some hundreds to thousands of pieces. One made of millions of tiny
# chunks keeps Pillow's Python loops, and with them the interpreter lock, busy for many seconds.
_MOST_READS = 400_000
# Pillow decodes run-length BMP in Python: 5 kB that claim 50 megapixels keep it busy for 15 s.
_MOST_RUN_LENGTH_PIXELS = 4_000_000
_RUN_LENGTH = (1, 2)  # BMP's numbers for RLE8 and RLE4


class Target(Protocol):
    """What a picture is made ready for: a network of the catalog, or a version of one."""

    @property
    def input_size(self) -> tuple[int, int]: ...

    @property
    def short_side(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded image, ready for a network.

    Attributes:
        pixels: RGB at the network's input size, shape (height, width, 3), uint8.
        width: Width of the image that was sent, in pixels, upright.
        height: Its height.
        whole: The image itself, RGB on white, if it was to be kept: what `upright` would give.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    whole: Image.Image | None = None


def decode(
    data: bytes | memoryview,
    *,
    network: Target,
    resize: Resize = "crop",
    max_pixels: int,
    keep_pixels: int = 0,
) -> Picture:
    """Decode, turn upright, resize and flatten one image.

    Of an animation it takes the first frame, of a TIFF the first page. Transparent parts show
    white. Color profiles are not applied.

    Args:
        data: The file, as it was sent.
        network: Says input size and short side.
        resize: ``crop`` or ``squash``, see `models.images.resize.fit`.
        max_pixels: Largest width times height, judged before any pixel is decoded. Pillow's own
            limit of 179 megapixels stays in force above it.
        keep_pixels: The image itself is kept if it has no more than these, and had to be decoded
            at its full size.

    Raises:
        InvalidImage: The bytes are not a whole, readable image of an accepted format.
        ImageTooLarge: The image has more than `max_pixels`.
    """
    raw = bytes(data)  # costs nothing when it is bytes already
    image_format = sniff(raw)
    height, width = network.input_size
    try:
        _check_scans(raw, image_format)
        with _opened(raw, image_format, max_pixels) as image:
            _check_size(image, max_pixels)
            reduced = quick_jpeg(raw, image, network.short_side)
            if reduced is None:
                image.load()
            turn = _turn_of(image)
            small = fit(
                interpolable(image) if reduced is None else reduced,
                target=(width, height),
                short_side=network.short_side,
                resize=resize,
                turn=turn,
                size=image.size,
            )
            seen_width, seen_height = turn.seen(image.size)
            pixels = np.asarray(flatten(small, image))
            kept = reduced is None and image.width * image.height <= keep_pixels
            whole = _plain(image, turn) if kept else None
    except OpsinError:
        raise
    except Exception as broken:  # Pillow documents no closed set of errors
        raise _invalid(image_format, broken) from broken
    return Picture(pixels, seen_width, seen_height, whole)


def upright(data: bytes | memoryview, *, max_pixels: int) -> Image.Image:
    """The whole picture as people see it: RGB on white, upright, at its own size.

    Args:
        data: The file, as it was sent.
        max_pixels: As for `decode`.

    Raises:
        InvalidImage: As `decode`.
        ImageTooLarge: As `decode`.
    """
    raw = bytes(data)
    image_format = sniff(raw)
    try:
        _check_scans(raw, image_format)
        with _opened(raw, image_format, max_pixels) as image:
            _check_size(image, max_pixels)
            image.load()
            return _plain(image, _turn_of(image))
    except OpsinError:
        raise
    except Exception as broken:  # Pillow documents no closed set of errors
        raise _invalid(image_format, broken) from broken


def reduced(data: bytes | memoryview, *, longest_side: int, max_pixels: int) -> Picture:
    """The whole picture as people see it, made so small that no side is longer than that.

    Args:
        data: The file, as it was sent.
        longest_side: Pixels; a smaller picture stays as it is.
        max_pixels: As for `decode`.

    Raises:
        InvalidImage: As `decode`.
        ImageTooLarge: As `decode`.
    """
    raw = bytes(data)
    image_format = sniff(raw)
    try:
        _check_scans(raw, image_format)
        with _opened(raw, image_format, max_pixels) as image:
            _check_size(image, max_pixels)
            small = quick_jpeg(raw, image, min(within(image.size, longest_side)))
            if small is None:
                image.load()
                small = interpolable(image)
            size = within(image.size, longest_side)
            if small.size != size:
                small = small.resize(size, Image.Resampling.BILINEAR)
            turn = _turn_of(image)
            plain = flatten(small, image)
            seen = plain if turn.method is None else plain.transpose(turn.method)
            seen_width, seen_height = turn.seen(image.size)
    except OpsinError:
        raise
    except Exception as broken:  # Pillow documents no closed set of errors
        raise _invalid(image_format, broken) from broken
    return Picture(np.asarray(seen), seen_width, seen_height)


def _plain(image: Image.Image, turn: Turn) -> Image.Image:
    """A loaded image in RGB on white, upright."""
    plain = flatten(interpolable(image), image)
    return plain if turn.method is None else plain.transpose(turn.method)


class _MeteredReader(io.BytesIO):
    """A file in memory that may be read only so many times, see `_MOST_READS`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left = _MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise InvalidImage(
                "The image is made of too many tiny pieces. Save it again with another program."
            )
        return super().read(size)


def _opened(raw: bytes, image_format: ImageFormat, max_pixels: int) -> Image.Image:
    """The image with its header read, and no pixel of it."""
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
    # A small TIFF may hold one huge tile, which is decoded whole to show a corner of it.
    tags: Any = getattr(image, "tag_v2", {})
    tile = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    # A hostile tag may be a tuple, and a tuple times a number a very long one.
    if all(isinstance(side, int) for side in tile) and tile[0] * tile[1] > max_pixels:
        raise ImageTooLarge(
            f"The TIFF is stored in tiles of more than {max_pixels:,} pixels. "
            "Save it again with smaller tiles, or as PNG."
        )


def _check_run_length(pixels: int) -> None:
    if pixels > _MOST_RUN_LENGTH_PIXELS:
        raise ImageTooLarge(
            f"A run-length coded BMP may have {_MOST_RUN_LENGTH_PIXELS:,} pixels; this one has "
            f"{pixels:,}. Save it again as PNG."
        )


def _check_scans(raw: bytes, image_format: ImageFormat) -> None:
    # Inside the coded data 0xFF is always followed by a zero, so this counts real markers.
    # By numpy in a third of the time that `bytes.count` takes.
    if image_format != "JPEG":
        return
    coded = np.frombuffer(raw, np.uint8)
    if np.count_nonzero((coded[:-1] == 0xFF) & (coded[1:] == 0xDA)) > _MOST_SCANS:
        raise InvalidImage(
            f"The JPEG has more than {_MOST_SCANS} progressive scans. "
            "Save it again as a plain (baseline) JPEG."
        )


def _turn_of(image: Image.Image) -> Turn:
    """The EXIF orientation; what cannot be read is taken as upright.

    Pillow has turned a TIFF upright by itself when it loads, and dropped the tag.
    """
    if image.format == "JPEG" and not image.info.keys() & _TOLD_BY:
        return UPRIGHT  # asking an empty one takes longer than opening the file did
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  broken EXIF must not cost a good picture
        return UPRIGHT
    return TURNS.get(orientation, UPRIGHT) if isinstance(orientation, int) else UPRIGHT


def _invalid(image_format: ImageFormat, broken: Exception) -> InvalidImage:
    # Pillow's own words may hold an address in memory, so only this one of them is used.
    if "truncated" in str(broken):
        return InvalidImage(
            f"The {image_format} data ends before the picture is whole. Send all of the file."
        )
    return InvalidImage(
        f"The {image_format} data is damaged or of a kind that is not supported. "
        "Check that the whole file was sent, or save it again as a plain JPEG or PNG."
    )
