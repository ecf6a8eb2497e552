"""Detects the format of an image from its first bytes.

The file name and the Content-Type are only claims of the client. Only the formats listed in
docs/reference/api.md reach a decoder, each its own, so that no parser reads data of another
format: an upload must never start Ghostscript (EPS), for example.
"""

import re
from typing import Literal

from contracts.errors import InvalidImage

IsolatedFormat = Literal["HEIF", "AVIF"]  # decoded in a process of their own
ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", IsolatedFormat]

ACCEPTED = "JPEG, PNG, WebP, HEIC, AVIF, BMP, GIF, TIFF or PPM"

_FORMATS: tuple[tuple[bytes, ImageFormat], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)

# Only for the error message: files that people send by mistake.
_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\x01\0", "a Windows icon"),
    (b"\0\0\x02\0", "a Windows cursor or a Targa image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"II\xbc", "a JPEG XR image"),
    (b"DDS ", "a DirectX texture"),
    (b"qoif", "a QOI image"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"P7\n", "a PAM image"),
    (b"PF\n", "a PFM image"),
    (b"Pf\n", "a PFM image"),
    (b"FUJIFILMCCD-RAW", "a Fujifilm raw photo"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"OTTO", "a font"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML or SVG file"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"{", "JSON"),
)
# What may stand in the first box of an ISO media file. The first name is that of the standard which
# the file follows, and often a general one; the compatible ones behind it say more.
_BRANDS: dict[IsolatedFormat, tuple[bytes, ...]] = {
    "AVIF": (b"avif", b"avis"),
    "HEIF": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
}
_GENERAL_BRANDS = (b"mif1", b"mif2", b"msf1", b"miaf")
_OTHER_BRANDS = {
    b"crx ": "a Canon raw photo",
    b"jp2 ": "a JPEG 2000 image",
    b"jxl ": "a JPEG XL image",
}
_MAX_BRANDS_BYTES = 256
_SURPLUS = b"\r\n\t \xef\xbb\xbf"
# PBM, PGM and PPM, with text or with bytes.
_NETPBM = re.compile(rb"P[1-6][\s#]")


def sniff(data: bytes) -> ImageFormat:
    """The format of an image.

    Raises:
        InvalidImage: The format is not accepted; the message says what the data looks like.
    """
    if not data:
        raise InvalidImage(f"The image is empty. Send the bytes of a {ACCEPTED} file.")
    if (image_format := _accepted_format(data)) is not None:
        return image_format
    raise InvalidImage(f"This is {_describe(data)}, not an accepted image. Send a {ACCEPTED} file.")


def describe(data: bytes) -> str:
    """What a file looks like that should have been something else, for the error message."""
    image_format = _accepted_format(data)
    return f"an image ({image_format})" if image_format else _describe(data)


def media_type(image_format: ImageFormat) -> str:
    """The media type of a format."""
    return "image/x-portable-anymap" if image_format == "PPM" else f"image/{image_format.lower()}"


def _accepted_format(data: bytes) -> ImageFormat | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, image_format in _FORMATS:
        if data.startswith(magic):
            return image_format
    if (isolated := _isolated_format(data)) is not None:
        return isolated
    return "PPM" if _NETPBM.match(data) else None


def _isolated_format(data: bytes) -> IsolatedFormat | None:
    """The format of an ISO media file that is an image; None for any other file."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4]), _MAX_BRANDS_BYTES)
    major, compatible = data[8:12], [data[at : at + 4] for at in range(16, end, 4)]
    for brands in ((major,), compatible if major in _GENERAL_BRANDS else ()):
        for image_format, names in _BRANDS.items():
            if any(brand in names for brand in brands):
                return image_format
    return "HEIF" if major in _GENERAL_BRANDS else None


def _describe(data: bytes) -> str:
    bare = data.lstrip(_SURPLUS)
    if bare != data and any(bare.startswith(magic) for magic, _ in _FORMATS):
        return "an image behind a line break or a byte order mark, which some program put there"
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "an AVI video"
    if data[4:8] == b"ftyp":
        return _OTHER_BRANDS.get(data[8:12], "a video or another media file")
    head = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, name in _OTHER_FORMATS:
        if data.startswith(magic) or head.startswith(magic):
            return name
    return "text" if _is_text(data[:512]) else "a file of an unknown type"


def _is_text(head: bytes) -> bool:
    # The last character may be incomplete.
    text = head.decode(errors="ignore")
    return len(text.encode()) > len(head) - 4 > 0 and all(
        c.isprintable() or c.isspace() for c in text
    )
