"""From the bytes of a client to the input of a network. Every image passes through here.

Whatever the bytes are, `decode` ends in a `DecodedImage`, in `InvalidImage` or in `ImageTooLarge`,
within bounded time and bounded memory (at most sixteen bytes per pixel of the limit). What a large
image costs is known from its header; before it is decoded, the caller may make it wait.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from contracts.inference.inference import Resize
from contracts.inference.manifest import Geometry
from models.images.bilinear import resize_bilinear
from models.images.color import flatten, interpolable
from models.images.gate import Gate, at_once
from models.images.jpeg import decode_jpeg_reduced
from models.images.opening import opened
from models.images.resize import (
    ORIENTATIONS,
    UPRIGHT,
    ImageInput,
    Orientation,
    Size,
    fit,
    geometry_of,
    resized_size,
    within,
)

_ORIENTATION: Final = 274  # EXIF and TIFF tag
_ORIENTATION_SOURCES: Final = {"exif", "xmp"}  # where Pillow looks for it in a JPEG
# Of a crafted block of 16 MiB, Pillow makes two million fractions in Python, which takes seconds
# and the interpreter lock. That of a real photo has less than 64 kB.
_MAX_EXIF_BYTES: Final = 256 * 1024


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
    large: Gate = at_once,
) -> DecodedImage:
    """Decode, turn upright, resize and flatten one image.

    Takes the first frame of an animation and the first page of a TIFF. Transparent parts become
    white. Colors are converted to sRGB.

    Args:
        resize: ``crop`` or ``squash``, see `models.images.resize.fit`; None for the network's own
            way.
        max_pixels: Largest width times height, checked before any pixel is decoded. Pillow's own
            limit of 179 megapixels remains in force above it.
        keep_pixels: Keep the full-size image if it has no more pixels than this and had to be
            decoded at full size.
        large: Entered while a large image is decoded.

    Raises:
        InvalidImage: The data is not a complete, readable image in an accepted format.
        ImageTooLarge: The image has more than `max_pixels`.
    """
    with opened(data, max_pixels, large) as (raw, image):
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


def decode_upright(
    data: bytes | memoryview, *, max_pixels: int, large: Gate = at_once
) -> Image.Image:
    """Decode an image at its own size: RGB on white, upright.

    Raises:
        InvalidImage: As `decode`.
        ImageTooLarge: As `decode`.
    """
    with opened(data, max_pixels, large) as (_, image):
        image.load()
        return _upright(image, _orientation_of(image))


def upright_size(data: bytes | memoryview, *, max_pixels: int) -> Size:
    """(width, height) of an image, upright; of most formats only the header is read.

    Raises:
        InvalidImage: The data is not a readable image in an accepted format.
        ImageTooLarge: As `decode`.
    """
    with opened(data, max_pixels) as (_, image):
        return _orientation_of(image).upright_size(image.size)


def decode_reduced(
    data: bytes | memoryview, *, longest_side: int, max_pixels: int, large: Gate = at_once
) -> DecodedImage:
    """Decode an image, upright and scaled down until no side is longer than `longest_side`.

    A smaller image keeps its size.

    Raises:
        InvalidImage: As `decode`.
        ImageTooLarge: As `decode`.
    """
    with opened(data, max_pixels, large) as (raw, image):
        size = within(image.size, longest_side)
        small = decode_jpeg_reduced(raw, image, min(size))
        if small is None:
            image.load()
            # Pillow has turned a TIFF upright while loading it.
            size = within(image.size, longest_side)
            small = interpolable(image)
        if small.size != size:
            small = resize_bilinear(small, size)
        orientation = _orientation_of(image)
        upright = orientation.apply(flatten(small, image))
        width, height = orientation.upright_size(image.size)
    return DecodedImage(np.asarray(upright), width, height)


def _upright(image: Image.Image, orientation: Orientation) -> Image.Image:
    """A loaded image in RGB on white, upright."""
    return orientation.apply(flatten(interpolable(image), image))


def _orientation_of(image: Image.Image) -> Orientation:
    """The EXIF orientation; upright if it cannot be read.

    Pillow turns a TIFF upright when it loads it and removes the tag; other readers do the same.
    """
    if image.format == "JPEG" and not image.info.keys() & _ORIENTATION_SOURCES:
        return UPRIGHT  # reading an empty EXIF block takes longer than opening the file did
    if len(image.info.get("exif") or b"") > _MAX_EXIF_BYTES:
        return UPRIGHT
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001  broken EXIF must not cost a good image
        return UPRIGHT
    return ORIENTATIONS.get(orientation, UPRIGHT) if isinstance(orientation, int) else UPRIGHT
