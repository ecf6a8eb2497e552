"""What a client's bytes really are, told from their first bytes and from nothing else.

The name of a file and its Content-Type are the client's claim. Only the six formats of API.md
are let through to a decoder, each to its own, so that no parser ever meets bytes it was not
meant for: Ghostscript (EPS), for one, must never be started by an upload.
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

# Only for the message: what people send by mistake.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
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
    """The format of an image by its first bytes.

    Raises:
        InvalidImage: It is none of the accepted formats; the message says what it looks like.
    """
    if not data:
        raise InvalidImage(f"The image is empty. Send the bytes of a {ACCEPTED} file.")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for magic, image_format in _FORMATS:
        if data.startswith(magic):
            return image_format
    raise InvalidImage(f"This is {_stranger(data)}, not an accepted image. Send a {ACCEPTED} file.")


def _stranger(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return _ISO_BRANDS.get(data[8:12], "a video or another media file")
    head = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, name in _STRANGERS:
        if data.startswith(magic) or head.startswith(magic):
            return name
    return "text" if _is_text(data[:512]) else "a file of an unknown type"


def _is_text(head: bytes) -> bool:
    # A character may be cut in two at the end of the head.
    text = head.decode(errors="ignore")
    return len(text.encode()) > len(head) - 4 > 0 and all(
        c.isprintable() or c.isspace() for c in text
    )
