"""Which images are large, and what makes them wait.

What a large image costs is known from its header. Before it is decoded, the caller may make it
wait, or do it elsewhere.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

# Above these, an image is large: two kilobytes of WebP can be 50 megapixels. A JPEG is decoded at a
# reduced size unless it is progressive; a pixel of a WebP costs more than one of a PNG.
LARGE_PIXELS: Final = 4_000_000
REDUCED_JPEG_PIXELS: Final = 16_000_000
WEBP_PIXELS: Final = 2_000_000
# What a process decodes is never small: a hundred kilobytes of AVIF can be thousands of frames, of
# which none is the image.
ISOLATED_PIXELS: Final = 0
LEAST_LARGE: Final = min(LARGE_PIXELS, REDUCED_JPEG_PIXELS, WEBP_PIXELS)
"""An image for which the gate is entered although it has no more pixels is an isolated one."""

Gate = Callable[[int], AbstractContextManager[object]]
"""Entered with the number of pixels while a large image is decoded; it may wait or raise."""


class LargeImageError(Exception):
    """Raised by `refuse_large`.

    Attributes:
        pixels: Of the image.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__(f"{pixels} pixels")
        self.pixels = pixels


def at_once(_pixels: int) -> AbstractContextManager[object]:
    """A gate through which every image passes."""
    return nullcontext()


def refuse_large(pixels: int) -> AbstractContextManager[object]:
    """A gate that lets no large image pass.

    Raises:
        LargeImageError: Always.
    """
    raise LargeImageError(pixels)
