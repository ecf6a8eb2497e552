"""Estimates the memory of a style transfer, before it is queued and again where it runs.

The estimate is a straight line, generous for the activations of the network at full size. A style
is as long as the result but has its own proportions: beside a narrow content it has many times as
many pixels. The API process can compute it because it needs no network. Dreams and the fast method
work in tiles, so their memory grows only with the arrays that hold the image itself.
"""

from collections.abc import Sequence

from contracts.create.requests import (
    LARGEST_SIDE,
    SMALLEST_SIDE,
    SMALLEST_TILE,
    StyleNetwork,
)
from contracts.errors import ValidationFailed
from contracts.settings import MIB
from models.create.images import scaled_size
from models.images.resize import Size

_FIXED = 900 * MIB
"""TensorFlow or OpenVINO, the network's weights, and the images as they were sent."""
_VGG_BYTES = 600 * MIB
"""VGG's weights, as they are and as `models.create.winograd` transforms them."""
# Measured by `benchmarks.create.memory` (VGG16: 1.66 GB in all at 256 pixels, 2.42 GB at 512).
_BYTES_PER_PIXEL: dict[StyleNetwork, int] = {"vgg16": 5000, "vgg19": 5500, "squeezenet": 1500}
_STYLE_BYTES_PER_PIXEL: dict[StyleNetwork, int] = {"vgg16": 1000, "vgg19": 1000, "squeezenet": 250}
"""Of a style, whose maps are computed once and without gradients; twice what was measured."""
_TILED_BYTES_PER_PIXEL = 120
"""Of the image itself; a third more than the fast method took at 3000 x 2000 pixels."""
_TILE_BYTES = 600 * MIB
"""Of a dream's small tiles, also in float32. Those of the fast method take less than `_FIXED`."""
_DREAM_BYTES_PER_TILE_PIXEL = 4000
"""Of a dream's gradients; a third more than VGG16 took in tiles of 1024 pixels, in bfloat16."""


def style_size(style: Size, result: Size, style_scale: float) -> Size:
    """Width and height at which a style's maps are computed for a result of some size."""
    return scaled_size(style, max(1, round(max(result) * style_scale)), min(result))


def style_bytes(
    size: Size,
    network: StyleNetwork,
    styles: Sequence[Size] = (),
    style_scale: float = 1.0,
) -> int:
    """Peak bytes of `method=optimize`.

    Args:
        size: Width and height of the result.
        styles: Width and height of the styles, at any scale.
        style_scale: Of the request.
    """
    weights = 0 if network == "squeezenet" else _VGG_BYTES
    # As if the styles had the result's proportions; then what they really have.
    larger = max(1.0, style_scale)
    pixels = round(size[0] * larger) * round(size[1] * larger)
    work = pixels * _BYTES_PER_PIXEL[network]
    for width, height in (style_size(style, size, style_scale) for style in styles):
        work = max(work, width * height * _STYLE_BYTES_PER_PIXEL[network])
    return _FIXED + weights + work


def tiled_bytes(size: Size, tile: int = 0, least: int = 0) -> int:
    """Peak bytes of a dream or of `method=fast`.

    Args:
        size: Width and height of the image.
        tile: Longest side of a dream's tiles; 0 for the fast method.
        least: Pixels that every tile has, as the network takes no smaller ones.
    """
    pixels = max(min(size[0], tile) * min(size[1], tile), least)
    work = max(_TILE_BYTES, pixels * _DREAM_BYTES_PER_TILE_PIXEL) if tile else 0
    return _FIXED + work + size[0] * size[1] * _TILED_BYTES_PER_PIXEL


def check_style_memory(
    size: Size,
    network: StyleNetwork,
    limit: int,
    style_scale: float,
    styles: Sequence[Size] = (),
) -> int:
    """Check that a style transfer could fit into memory; return the bytes that it needs.

    Args:
        size: (width, height) of the result.
        limit: Available bytes.
        style_scale: Of the request; a style of more pixels than the result is what counts.
        styles: (width, height) of the styles, at any scale.

    Raises:
        ValidationFailed: It could not; says which size does.
    """
    needed = style_bytes(size, network, styles, style_scale)
    if needed <= limit:
        return needed
    fitting = (
        side
        for side in range(max(size), SMALLEST_SIDE - 1, -16)
        if style_bytes(scaled_size(size, side), network, styles, style_scale) <= limit
    )
    side = next(fitting, None)
    advice = (
        "Send method=fast, which works in tiles, or run the worker with more memory."
        if side is None
        else f"Send size={side} or less, or method=fast, which works in tiles."
    )
    raise ValidationFailed(
        f"A result of {size[0]} x {size[1]} with these styles would need about "
        f"{needed / 1e9:.1f} GB of memory; the limit is {limit / 1e9:.1f} GB. {advice}"
    )


def check_tiled_memory(size: Size, limit: int, tile: int = 0, least: int = 0) -> int:
    """Check that a dream or a fast style transfer could fit; return the bytes that it needs.

    Args:
        tile: As for `tiled_bytes`.
        least: As for `tiled_bytes`.

    Raises:
        ValidationFailed: It could not; says which size does.
    """
    needed = tiled_bytes(size, tile, least)
    if needed <= limit:
        return needed
    if tile and tiled_bytes(size, SMALLEST_TILE, least) <= limit:
        smaller = range(tile, SMALLEST_TILE - 1, -64)
        side = next(
            (side for side in smaller if tiled_bytes(size, side, least) <= limit), SMALLEST_TILE
        )
        raise ValidationFailed(
            f"Tiles of {tile} x {tile} would need about {needed / 1e9:.1f} GB of memory; the limit "
            f"is {limit / 1e9:.1f} GB. Send tile_size={side} or less."
        )
    sides = range(min(max(size), LARGEST_SIDE), SMALLEST_SIDE, -16)
    tile = min(tile, SMALLEST_TILE)
    fitting = (side for side in sides if tiled_bytes(scaled_size(size, side), tile, least) <= limit)
    fits = next(fitting, None)
    advice = f"Send size={fits} or less." if fits else "Run the worker with more memory."
    raise ValidationFailed(
        f"An image of {size[0]} x {size[1]} would need about {needed / 1e9:.1f} GB of memory; the "
        f"limit is {limit / 1e9:.1f} GB. {advice}"
    )
