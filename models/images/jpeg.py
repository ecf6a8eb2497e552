"""Decodes JPEG with TurboJPEG at a half, a quarter or an eighth of its size, where that suffices.

A JPEG stores 8x8 blocks of frequencies, so a smaller image needs only the low ones. At least twice
the resolution of the network's input is kept, so that the resize that follows still has pixels to
average. For 12 megapixels this takes a fifth of the time. TurboJPEG offers every eighth, but has
vector instructions for powers of two only: five to seven eighths take up to twice as long as the
full size, and three eighths longer than a half. At full size both decoders are
libjpeg-turbo, equally fast and equal in every pixel, so Pillow decodes all images that need not be
reduced.

Pillow remains the reference: it has read the header before, and files that TurboJPEG does not
accept (other colors, broken or surplus data) are left to it.
"""

import simplejpeg
from PIL import Image

_COLORS = {("RGB", "YCbCr"): "RGB", ("L", "Gray"): "GRAY"}
_OVERSAMPLING = 2
_SCALES = (1 / 8, 1 / 4, 1 / 2)


def decode_jpeg_reduced(raw: bytes, header: Image.Image, short_side: int) -> Image.Image | None:
    """Decode a JPEG at a half, a quarter or an eighth; None if Pillow has to decode it.

    Args:
        raw: The file.
        header: As opened by Pillow: not loaded, its size checked.
        short_side: Pixels of the short side that the network needs.
    """
    needed = _OVERSAMPLING * short_side / min(header.size)
    scale = next((scale for scale in _SCALES if scale >= needed), None)
    if header.format != "JPEG" or scale is None:
        return None
    # TurboJPEG takes the smallest scale at which both sides have so many pixels, and rounds up.
    width, height = (max(1, int(side * scale)) for side in header.size)
    try:
        found_height, found_width, colors, _ = simplejpeg.decode_jpeg_header(raw)
        target = _COLORS.get((header.mode, colors))
        # Only a crafted file has different sizes for two decoders.
        if target is None or (found_width, found_height) != header.size:
            return None
        pixels = simplejpeg.decode_jpeg(raw, target, min_height=height, min_width=width)
    except ValueError:
        return None
    return Image.fromarray(pixels[..., 0] if target == "GRAY" else pixels)


def is_complete(raw: bytes, size: tuple[int, int]) -> bool:
    """Whether all rows of a JPEG are there; TurboJPEG warns about any that are not.

    Args:
        raw: The file, to which an end marker was added.
        size: (width, height) according to Pillow.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(raw)
        if (width, height) != size:
            return False
        colors = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(colors, "RGB")
        # The smallest scale: all data is read, few pixels are computed.
        simplejpeg.decode_jpeg(raw, colors, min_height=1, min_width=1, strict=True)
    except ValueError:
        return False
    return True
