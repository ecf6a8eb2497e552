"""The job behind `/v1/style_transfers`: from a request and its files to `result.png`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from contracts.create.requests import CONTENT_FILE, STYLE_SIDE, StyleTransferRequest, style_file
from contracts.errors import InvalidImage
from contracts.jobs import Progress
from contracts.settings import Settings
from models.create.images import Pixels, enlarged, read_image, resized, scaled_size
from models.create.memory import check_tiled_memory
from models.create.run import ImageRun, ImageWork
from models.create.style import colors
from models.create.style.fast import FastStyle
from models.create.style.plan import shares_of
from models.create.style.weights import MINIMUM_SIDES, available_network
from models.images.resize import Size
from models.memory.machine import memory_limit
from models.weights.catalog import Weights

_DESCRIBED_SIDE = 512  # pixels of a style that `method=fast` looks at
_FAST_FIELDS = {"method", "size", "style_weights", "preserve_colors", "strength"}


@dataclass(frozen=True, slots=True)
class StyleImages:
    """The images of a job.

    Attributes:
        content: At the size of the result or larger.
        styles: At least one.
        size: (width, height) of the result.
    """

    content: Image.Image
    styles: Sequence[Image.Image]
    size: Size


def run(work: ImageWork, settings: Settings) -> dict[str, Any]:
    """Run a `StyleTransferRequest`, with the number of `styles`; the result becomes an artifact.

    Returns:
        The settings that were used, the result's size, and its losses.

    Raises:
        WeightsMissing: The weights are not on this machine.
        ValidationFailed: It would not fit into memory, or a layer does not exist.
        WorkStoppedError: The job was stopped.
    """
    stored = dict(work.request)
    count = int(stored.pop("styles", 1))
    request = StyleTransferRequest.model_validate(stored)
    work.progress(Progress(fraction=0, phase="model"))
    if request.method == "fast":
        return _run_fast(work, request, settings, _images(work, request, settings, count))
    # Only here, because it loads TensorFlow, which takes longer than the fast method does.
    from models.create.style.optimize import optimize

    return optimize(work, request, settings, _images(work, request, settings, count))


def _images(
    work: ImageWork, request: StyleTransferRequest, settings: Settings, count: int
) -> StyleImages:
    limit = settings.max_image_pixels
    is_fast = request.method == "fast"
    side = request.size or (limit if is_fast else STYLE_SIDE)
    content = read_image(_input(work, CONTENT_FILE), side, limit)
    if request.size is not None:
        size = scaled_size(content.size, request.size)
    elif is_fast:
        size = content.size
    else:
        network = available_network(Weights.of(settings), request.network)
        size = enlarged(content.size, MINIMUM_SIDES[network])
    style_side = _DESCRIBED_SIDE if is_fast else round(max(size) * request.style_scale)
    styles = [
        read_image(_input(work, style_file(index)), style_side, limit) for index in range(count)
    ]
    return StyleImages(content, styles, size)


def _input(work: ImageWork, name: str) -> bytes:
    try:
        return (work.folder / name).read_bytes()
    except FileNotFoundError:
        raise InvalidImage("An image of this job was lost. Send the request again.") from None


def _run_fast(
    work: ImageWork, request: StyleTransferRequest, settings: Settings, images: StyleImages
) -> dict[str, Any]:
    check_tiled_memory(images.size, memory_limit(settings.training_memory_mb))
    used = used_settings(request, images.size) | {"network": "style_fast"}
    run_ = ImageRun(work, steps=1, settings=used)
    network = FastStyle(Weights.of(settings), settings.job_threads)
    work.progress(Progress(fraction=0.5, phase="painting"))
    pixels = paint_fast(network, request, images)
    work.progress(Progress(fraction=1, phase="painting"))
    run_.finish(pixels)
    return used


def paint_fast(network: FastStyle, request: StyleTransferRequest, images: StyleImages) -> Pixels:
    """The content painted in one pass, at the size of the result."""
    content = resized(images.content, images.size)
    styles = list(images.styles)
    if request.preserve_colors == "histogram":
        arrays = [resized(style, style.size) for style in styles]
        styles = [
            Image.fromarray(colors.match_colors(style, content).astype("uint8")) for style in arrays
        ]
    shares = shares_of(request.style_weights, len(styles))
    numbers = network.mixed(styles, shares, images.content, request.strength)
    pixels = network.paint(content, numbers)
    if request.preserve_colors == "luminance":
        pixels = colors.with_colors_of(pixels.astype("float32"), content).astype("uint8")
    return pixels


def used_settings(request: StyleTransferRequest, size: Size) -> dict[str, Any]:
    """What a result's file says of how it was made: the request, filled in."""
    is_fast = request.method == "fast"
    fields = request.model_dump(
        mode="json",
        exclude_none=True,
        include=_FAST_FIELDS if is_fast else None,
        exclude=None if is_fast else {"preview_every", "strength"},
    )
    return {"kind": "style_transfer", **fields, "width": size[0], "height": size[1]}
