"""Resizes an image of any size to a network's input: geometry, then one antialiased resize.

Resizing the short side first and cropping afterwards would turn an image of 1 x 10,000 pixels
into one of 256 x 2,560,000. So the crop is computed first, as a box in the coordinates of the
source, and only that box is resized. Pillow's filter still reads the pixels just outside the box,
so the result equals that of the two-step way.
"""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from contracts.inference.inference import Resize
from contracts.inference.manifest import Geometry
from models.images.bilinear import resize_bilinear

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the source
Size = tuple[int, int]  # (width, height) in pixels, as Pillow counts


@dataclass(frozen=True, slots=True)
class Orientation:
    """One EXIF orientation: how to turn the stored pixels upright.

    Attributes:
        method: Pillow's name; None leaves the pixels as they are.
        swaps: Whether width and height are exchanged.
        mirrors_x: Whether the stored columns are in reverse order.
        mirrors_y: Whether the stored rows are in reverse order.
    """

    method: Image.Transpose | None
    swaps: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def apply(self, image: Image.Image) -> Image.Image:
        """Turn an image upright."""
        return image if self.method is None else image.transpose(self.method)

    def upright_size(self, size: Size) -> Size:
        """The size of the upright image."""
        return (size[1], size[0]) if self.swaps else size

    def stored_box(self, box: Box, size: Size) -> Box:
        """Convert a box of the upright image to coordinates of the stored one, of size `size`."""
        left, top, right, bottom = box
        if self.swaps:
            left, top, right, bottom = top, left, bottom, right
        if self.mirrors_x:
            left, right = size[0] - right, size[0] - left
        if self.mirrors_y:
            top, bottom = size[1] - bottom, size[1] - top
        return left, top, right, bottom


class ImageInput(Protocol):
    """Anything that images are prepared for: a catalog network, a version or an `InputSpec`."""

    @property
    def input_size(self) -> tuple[int, int]: ...

    @property
    def short_side(self) -> int: ...

    @property
    def geometry(self) -> Geometry: ...


UPRIGHT = Orientation(None)
# The eight values of EXIF tag 274.
ORIENTATIONS: dict[int, Orientation] = {
    1: UPRIGHT,
    2: Orientation(Image.Transpose.FLIP_LEFT_RIGHT, mirrors_x=True),
    3: Orientation(Image.Transpose.ROTATE_180, mirrors_x=True, mirrors_y=True),
    4: Orientation(Image.Transpose.FLIP_TOP_BOTTOM, mirrors_y=True),
    5: Orientation(Image.Transpose.TRANSPOSE, swaps=True),
    6: Orientation(Image.Transpose.ROTATE_270, swaps=True, mirrors_y=True),
    7: Orientation(Image.Transpose.TRANSVERSE, swaps=True, mirrors_x=True, mirrors_y=True),
    8: Orientation(Image.Transpose.ROTATE_90, swaps=True, mirrors_x=True),
}


def geometry_of(network: ImageInput, resize: Resize | None) -> Geometry:
    """How an image becomes the network's input: as in its training, unless a client asks."""
    if resize is None or (resize == "crop" and network.geometry != "squash"):
        return network.geometry
    return "squash" if resize == "squash" else "cover"


def default_resize(network: ImageInput) -> Resize:
    """The `resize` that a request without one means."""
    return "squash" if network.geometry == "squash" else "crop"


def preparation(network: ImageInput, resize: Resize | None) -> tuple[int, int, Geometry, int]:
    """How images become a network's input; two of which it is equal get the same pixels.

    Returns:
        Height and width of the input, the geometry and the short side, 0 if that plays no part.
    """
    geometry = geometry_of(network, resize)
    short_side = network.short_side if geometry == "short_side" else 0
    return *network.input_size, geometry, short_side


def resized_size(size: Size, network: ImageInput, geometry: Geometry) -> Size:
    """The size to which the whole image is resized, before anything is cropped.

    Rounds as torchvision does, whose recipe the published accuracies were measured with.

    Args:
        size: Size of the upright image.
        network: The input that it is resized for.
        geometry: As from `geometry_of`.
    """
    (width, height), (target_height, target_width) = size, network.input_size
    if geometry == "squash":
        return target_width, target_height
    if geometry == "cover" and target_width * height > target_height * width:
        return target_width, max(target_height, height * target_width // width)
    if geometry == "cover":
        return max(target_width, width * target_height // height), target_height
    # A target larger than the resized image would need padding; the catalog has none.
    short = min(size)
    return (
        max(target_width, network.short_side * width // short),
        max(target_height, network.short_side * height // short),
    )


def visible_box(size: Size, network: ImageInput, resize: Resize | None) -> Box:
    """The part of an upright image that a network sees; arguments as for `fit`.

    Args:
        size: Size of the upright image.
        network: The input that it is resized for.
        resize: What the client asked for; None for the network's own way.
    """
    geometry = geometry_of(network, resize)
    width, height = size
    if geometry == "squash":
        return 0.0, 0.0, float(width), float(height)
    target = network.input_size[::-1]
    wide, high = resized_size(size, network, geometry)
    left = round((wide - target[0]) / 2)
    top = round((high - target[1]) / 2)
    across, down = width / wide, height / high
    # Rounding may put the far edge slightly outside, which Pillow refuses.
    right = min((left + target[0]) * across, float(width))
    bottom = min((top + target[1]) * down, float(height))
    return left * across, top * down, right, bottom


def within(size: Size, longest_side: int) -> Size:
    """Scale a size down so that no side is longer than `longest_side`."""
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fit(
    image: Image.Image,
    *,
    network: ImageInput,
    resize: Resize | None,
    orientation: Orientation,
    size: Size | None = None,
) -> Image.Image:
    """Turn an image upright and resize it to the network's input size, antialiased.

    Bilinear with a support that grows with the reduction, which is how the published accuracies
    were measured.

    Args:
        image: In any mode that Pillow interpolates in: not ``1`` and not ``P``.
        network: The input that it is resized for.
        resize: ``crop`` keeps the aspect ratio, ``squash`` keeps all of the image; None for the
            network's own way.
        size: Size of the stored image, if `image` is a reduced copy of it.
    """
    size = size or image.size
    box = visible_box(orientation.upright_size(size), network, resize)
    target = network.input_size[::-1]
    # Turning after the resize moves 50 thousand pixels instead of 50 million.
    stored = _reduced(orientation.stored_box(box, size), size, image.size)
    small = resize_bilinear(image, orientation.upright_size(target), stored)
    return orientation.apply(small)


def _reduced(box: Box, size: Size, to: Size) -> Box:
    """Convert a box of an image to coordinates of a copy reduced by powers of two.

    The sides of the copy are rounded up, so their ratio is not exactly its scale.
    """
    scale = round(8 * max(to) / max(size)) / 8
    left, top, right, bottom = (edge * scale for edge in box)
    return left, top, min(right, float(to[0])), min(bottom, float(to[1]))
