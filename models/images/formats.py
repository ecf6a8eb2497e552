"""Detects the format of an image from its first bytes.

The file name and the Content-Type are only claims of the client. Only the six formats listed in
docs/reference/api.md reach a decoder, each its own, so that no parser reads data of another
format: an upload must never start Ghostscript (EPS), for example.
"""

from typing import Literal

from contracts.errors import InvalidImage

ImageFormat = Literal["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]

ACCEPTED = "JPEG, PNG, WebP, BMP, GIF or TIFF"

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
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML or SVG file"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"{", "JSON"),
)
_ISO_BRANDS = {b"heic": "a HEIC photo", b"heix": "a HEIC photo", b"mif1": "a HEIF photo"} | {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
}


def sniff(data: bytes) -> ImageFormat:
    """The format of an image.

    Raises:
        InvalidImage: The format is not accepted; the message says what the data looks like.
    """
    if not data:
        raise InvalidImage(f"The image is empty. Send the bytes of a {ACCEPTED} file.")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, image_format in _FORMATS:
        if data.startswith(magic):
            return image_format
    raise InvalidImage(f"This is {_describe(data)}, not an accepted image. Send a {ACCEPTED} file.")


def _describe(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return _ISO_BRANDS.get(data[8:12], "a video or another media file")
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
