"""JPEG by TurboJPEG, at a half, a quarter or an eighth of its size where the network needs no more.

A JPEG stores 8x8 blocks of frequencies, so a smaller picture costs only the low ones. Twice the
resolution that the network looks at is always kept, so that the resize that follows still has
something to average. Of 12 megapixels this takes a fifth of the time. At full size both decoders
are libjpeg-turbo, equally quick and equal in every pixel, and so Pillow keeps all pictures that
need not be reduced.

Pillow stays the reference: it has read the header before, and whatever TurboJPEG finds odd
(other colors, broken or surplus data) is left to it and to its judgement.
"""

import simplejpeg
from PIL import Image

_COLORS = {("RGB", "YCbCr"): "RGB", ("L", "Gray"): "GRAY"}
_KEPT = 2
_LARGEST = 7 / 8


def quick_jpeg(raw: bytes, header: Image.Image, short_side: int) -> Image.Image | None:
    """The pixels of a JPEG, reduced by whole eighths; None if Pillow shall decode it.

    Args:
        raw: The file.
        header: As Pillow opened it: not loaded, its size judged.
        short_side: Pixels of the short side that the network looks at.
    """
    least = _KEPT * short_side / min(header.size)
    if header.format != "JPEG" or least > _LARGEST:
        return None
    width, height = (max(1, int(side * least)) for side in header.size)
    try:
        seen_height, seen_width, colors, _ = simplejpeg.decode_jpeg_header(raw)
        target = _COLORS.get((header.mode, colors))
        # Two decoders that read different sizes off one file: somebody is playing games.
        if target is None or (seen_width, seen_height) != header.size:
            return None
        pixels = simplejpeg.decode_jpeg(raw, target, min_height=height, min_width=width)
    except ValueError:
        return None
    return Image.fromarray(pixels[..., 0] if target == "GRAY" else pixels)
