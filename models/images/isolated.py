"""Decodes HEIF and AVIF, what phones send, in a process of its own.

See `models.images.isolated_child` for the reasons, and docs/decisions/0010.
"""

import json
import re
import struct
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from contracts.errors import ImageTooLarge, InvalidImage
from contracts.settings import MIB
from models.confined_process import ConfinedProcess, NoOutputError
from models.images import isolated_child
from models.images.formats import IsolatedFormat
from models.images.isolated_child import HEADER

_CHILD = Path(isolated_child.__file__)
_BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_MAX_PROFILE_BYTES = 4 * MIB
_BYTES_PER_PIXEL = 16  # as for all formats
_BASE_MEMORY = 512 * MIB
# Many times what a real image takes, but not what a small one can be made to take.
_BASE_CPU_SECONDS, _CPU_SECONDS_PER_MEGAPIXEL = 5.0, 0.5
# The property `ispe` of 20 bytes, with version and flags; width and height follow.
_SIZES = re.compile(rb"\0\0\0\x14ispe\0{4}(?=.{8})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """Limits of an image, and of the resources for decoding it.

    Attributes:
        pixels: Width times height.
        memory_bytes: Address space of the decoder.
        cpu_seconds: CPU time of the decoder.
        wait_seconds: Total time that the reader waits for the decoder.
    """

    pixels: int
    memory_bytes: int
    cpu_seconds: int
    wait_seconds: float = 60.0

    @classmethod
    def of(cls, max_pixels: int) -> "DecoderLimits":
        """The limits for images of at most that many pixels."""
        seconds = _BASE_CPU_SECONDS + _CPU_SECONDS_PER_MEGAPIXEL * max_pixels / 1e6
        return cls(
            max_pixels, _BASE_MEMORY + _BYTES_PER_PIXEL * max_pixels, cpu_seconds=round(seconds)
        )


def size_of(raw: bytes) -> tuple[int, int]:
    """The largest size that the container states for an image: (width, height).

    The decoder does not exceed it: it gets memory for as many pixels.

    Raises:
        InvalidImage: There is none, so the header is damaged.
    """
    sizes = [struct.unpack_from(">II", raw, found.end()) for found in _SIZES.finditer(raw)]
    if not sizes:
        raise InvalidImage("The header of the HEIF or AVIF is damaged. Send all of the file.")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return width, height


def decode_isolated(raw: bytes, image_format: IsolatedFormat, max_pixels: int) -> Image.Image:
    """Decode an image: ``L``, ``LA``, ``RGB`` or ``RGBA``, upright, with its color profile.

    Raises:
        InvalidImage: It cannot be decoded, or not within the limits.
        ImageTooLarge: It has more than `max_pixels`.
    """
    limits = DecoderLimits.of(max_pixels)
    process = ConfinedProcess(
        _CHILD, raw, [image_format, json.dumps(asdict(limits))], wait_seconds=limits.wait_seconds
    )
    with closing(process):
        try:
            return _read_image(process, image_format, max_pixels)
        except NoOutputError:
            raise _not_decoded(image_format) from None


def _read_image(process: ConfinedProcess, image_format: str, max_pixels: int) -> Image.Image:
    """Read what the decoder sends, which may be anything."""
    header = HEADER.unpack(process.read(HEADER.size))
    kind, mode, width, height, profile_size, pixels_size = header
    mode = mode.rstrip(b"\0").decode("ascii", "replace")
    if kind == isolated_child.TOO_LARGE:
        raise too_large(width, height, max_pixels)
    is_valid = (
        kind == isolated_child.IMAGE
        and mode in _BANDS
        and 0 < width * height <= max_pixels
        and pixels_size == width * height * _BANDS[mode]
        and profile_size <= _MAX_PROFILE_BYTES
    )
    if not is_valid:
        raise _not_decoded(image_format)
    profile = bytes(process.read(profile_size))
    image = Image.frombuffer(mode, (width, height), process.read(pixels_size), "raw", mode, 0, 1)
    if profile:
        image.info["icc_profile"] = profile
    return image


def too_large(width: int, height: int, max_pixels: int) -> ImageTooLarge:
    """The error for an image with too many pixels."""
    return ImageTooLarge(
        f"The image has {width} x {height} = {width * height:,} pixels; at most "
        f"{max_pixels:,} are accepted. Scale it down and send it again."
    )


def _not_decoded(image_format: str) -> InvalidImage:
    return InvalidImage(
        f"The {image_format} image cannot be decoded within the limits: it is damaged, incomplete "
        "or of a kind that is not supported. Send all of the file, or save it as JPEG."
    )
