"""Decodes one HEIF or AVIF image: ``python -I isolated_child.py FD FORMAT LIMITS``.

Both formats are video frames in a container as complicated as that of a film, so they are decoded
as clips are (`models.faces.liveness.video_child`): in a process with little memory, little time, no
file except the image and no environment. This module imports only Pillow and pi-heif, and nothing
of Opsin. It writes `HEADER`, then the color profile and the pixels, to its standard output. The
reader (`models.images.isolated`) validates all of it.

Its arguments: the file descriptor of the image, ``HEIF`` or ``AVIF``, and the fields of
`models.images.isolated.DecoderLimits` as JSON.
"""

import json
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

HEADER = struct.Struct("<c4sIIII")
"""Kind, mode, width, height, bytes of the color profile, bytes of the pixels."""
IMAGE, TOO_LARGE = b"I", b"L"

_MODES = {"L", "LA", "RGB", "RGBA"}
_MAX_PROFILE_BYTES = 4 << 20
_ORIENTATION = 274  # EXIF tag


def confine(limits: dict[str, Any]) -> None:
    """Permanently drop what decoding does not need from this process."""
    memory, seconds = limits["memory_bytes"], limits["cpu_seconds"]
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 32),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))


def main(arguments: list[str]) -> int:
    """Write the image; returns the exit status."""
    descriptor, image_format, limits = int(arguments[0]), arguments[1], json.loads(arguments[2])
    confine(limits)
    opened = _opener(image_format)
    # From here on, no process or thread can be created; the decoder uses this one.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    with os.fdopen(1, "wb") as out, os.fdopen(descriptor, "rb") as file:
        image = opened(file)
        if image.width * image.height > limits["pixels"]:
            out.write(HEADER.pack(TOO_LARGE, b"", image.width, image.height, 0, 0))
            return 0
        is_turned = image_format == "AVIF" or _has_turn(file)
        _write(out, image, is_turned=is_turned)
    return 0


def _opener(image_format: str) -> Any:
    """Pillow's reader of one format, with one thread."""
    if image_format == "AVIF":
        from PIL import AvifImagePlugin

        AvifImagePlugin.DECODE_CODEC_CHOICE = "dav1d"
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        return AvifImagePlugin.AvifImageFile
    import pi_heif

    # Nothing but the main image is read.
    pi_heif.options.DECODE_THREADS = 1
    pi_heif.options.THUMBNAILS = False
    pi_heif.options.DEPTH_IMAGES = False
    pi_heif.options.AUX_IMAGES = False
    return pi_heif.HeifImageFile


def _write(out: BinaryIO, image: Any, *, is_turned: bool) -> None:
    from PIL import ImageOps

    profile = image.info.get("icc_profile") or b""
    profile = profile if len(profile) <= _MAX_PROFILE_BYTES else b""
    image.load()
    if not is_turned:
        image.getexif()[_ORIENTATION] = image.info.get("original_orientation") or 1
    # libheif has turned the image as its container says; Pillow has translated that of an AVIF.
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode not in _MODES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = image.tobytes()
    mode = image.mode.encode()
    out.write(HEADER.pack(IMAGE, mode, *image.size, len(profile), len(pixels)))
    out.write(profile)
    out.write(pixels)


def _has_turn(file: BinaryIO) -> bool:
    """Whether the container says how to turn the image.

    Phones write that and the EXIF orientation, which then must not count as well. Some programs
    copy only the EXIF of a JPEG.
    """
    at, end = 0, file.seek(0, os.SEEK_END)
    while at + 8 <= end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"meta":
            properties = file.read(size - 8 if size > 8 else -1)
            return b"irot" in properties or b"imir" in properties
        if size < 8:  # up to the end of the file, or of 64 bits: neither comes before `meta`
            break
        at += size
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
