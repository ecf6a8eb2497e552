"""Estimates the memory of a style transfer, before it is queued and again where it runs.

The estimate is a straight line, generous for the activations of the network at full size. The API
process can compute it because it needs no network. Dreams and the fast method work in tiles, so
their memory grows only with the arrays that hold the image itself.
"""

from contracts.create.requests import LARGEST_SIDE, SMALLEST_SIDE, StyleNetwork
from contracts.errors import ValidationFailed
from contracts.settings import MIB
from models.create.images import scaled_size
from models.images.resize import Size

_FIXED = 900 * MIB
"""TensorFlow or OpenVINO, the network's weights, and the images as they were sent."""
_VGG_BYTES = 500 * MIB
"""VGG's weights, as they are and as `models.create.winograd` transforms them."""
# Measured by `benchmarks.create.memory` with plain convolutions, at 256 and 512 pixels (VGG16: 1.26
# and 2.10 GB in all), and raised by what the transforms hold.
_BYTES_PER_PIXEL: dict[StyleNetwork, int] = {"vgg16": 5500, "vgg19": 6000, "squeezenet": 1500}
_TILED_BYTES_PER_PIXEL = 120
_TILE_BYTES = 1500 * MIB


def style_bytes(size: Size, network: StyleNetwork) -> int:
    """Peak bytes of `method=optimize` for a result of that width and height."""
    weights = 0 if network == "squeezenet" else _VGG_BYTES
    return _FIXED + weights + size[0] * size[1] * _BYTES_PER_PIXEL[network]


def tiled_bytes(size: Size) -> int:
    """Peak bytes of a dream or of `method=fast` for an image of that width and height."""
    return _FIXED + _TILE_BYTES + size[0] * size[1] * _TILED_BYTES_PER_PIXEL


def check_style_memory(size: Size, network: StyleNetwork, limit: int, style_scale: float) -> None:
    """Check that a style transfer could fit into memory.

    Args:
        size: (width, height) of the result.
        limit: Available bytes.
        style_scale: Of the request; a style of more pixels than the result is what counts.

    Raises:
        ValidationFailed: It could not; says which size does.
    """
    larger = max(1.0, style_scale)
    counted = (round(size[0] * larger), round(size[1] * larger))
    needed = style_bytes(counted, network)
    if needed <= limit:
        return
    raise ValidationFailed(
        f"A result of {size[0]} x {size[1]} would need about {needed / 1e9:.1f} GB of memory; the "
        f"limit is {limit / 1e9:.1f} GB. {_advice(size, network, limit, larger)}"
    )


def _advice(size: Size, network: StyleNetwork, limit: int, larger: float) -> str:
    side = max(size)
    while side >= SMALLEST_SIDE:
        width, height = scaled_size(size, side)
        if style_bytes((round(width * larger), round(height * larger)), network) <= limit:
            return f"Send size={side} or less, or method=fast, which works in tiles."
        side -= 16
    return "Send method=fast, which works in tiles, or run the worker with more memory."


def check_tiled_memory(size: Size, limit: int) -> None:
    """Check that a dream or a fast style transfer could fit into memory.

    Raises:
        ValidationFailed: It could not; says which size does.
    """
    needed = tiled_bytes(size)
    if needed <= limit:
        return
    sides = range(min(max(size), LARGEST_SIDE), SMALLEST_SIDE, -16)
    fits = next((side for side in sides if tiled_bytes(scaled_size(size, side)) <= limit), None)
    advice = f"Send size={fits} or less." if fits else "Run the worker with more memory."
    raise ValidationFailed(
        f"An image of {size[0]} x {size[1]} would need about {needed / 1e9:.1f} GB of memory; the "
        f"limit is {limit / 1e9:.1f} GB. {advice}"
    )
