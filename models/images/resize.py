"""How a picture of any size becomes a network's input: geometry, then one antialiased resize.

Resizing short side first and cropping then would build an image of 256 x 2,560,000 pixels out
of one of 1 x 10,000. So the crop is computed first, as a box in the source's own coordinates,
and only that box is resized. Pillow's filter still reads the pixels just outside the box, and so
the result is the same as the two-step way's.
"""

from dataclasses import dataclass

from PIL import Image

from contracts.inference.inference import Resize

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the source
Size = tuple[int, int]  # (width, height) in pixels, as Pillow counts


@dataclass(frozen=True, slots=True)
class Turn:
    """One EXIF orientation: how the stored pixels are turned to be seen upright.

    Attributes:
        method: What Pillow calls it; None leaves the pixels as they are.
        swaps: Whether width and height change places.
        mirrors_x: Whether the stored columns are counted from the other side.
        mirrors_y: Whether the stored rows are.
    """

    method: Image.Transpose | None
    swaps: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def seen(self, size: Size) -> Size:
        """The size of the upright picture."""
        return (size[1], size[0]) if self.swaps else size

    def stored(self, box: Box, size: Size) -> Box:
        """A box of the upright picture, in the coordinates of the stored one of that size."""
        left, top, right, bottom = box
        if self.swaps:
            left, top, right, bottom = top, left, bottom, right
        if self.mirrors_x:
            left, right = size[0] - right, size[0] - left
        if self.mirrors_y:
            top, bottom = size[1] - bottom, size[1] - top
        return left, top, right, bottom


UPRIGHT = Turn(None)
# The eight values of EXIF tag 274.
TURNS: dict[int, Turn] = {
    1: UPRIGHT,
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, mirrors_x=True),
    3: Turn(Image.Transpose.ROTATE_180, mirrors_x=True, mirrors_y=True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, mirrors_y=True),
    5: Turn(Image.Transpose.TRANSPOSE, swaps=True),
    6: Turn(Image.Transpose.ROTATE_270, swaps=True, mirrors_y=True),
    7: Turn(Image.Transpose.TRANSVERSE, swaps=True, mirrors_x=True, mirrors_y=True),
    8: Turn(Image.Transpose.ROTATE_90, swaps=True, mirrors_x=True),
}


def crop_box(size: Size, target: Size, short_side: int) -> Box:
    """What "short side to `short_side`, then the centre of `target`" keeps of a picture.

    Rounds as torchvision does, by whose recipe the published accuracies were measured.

    Args:
        size: The upright picture's size.
        target: The network's input size.
        short_side: Length of the short side after resizing, in pixels.
    """
    width, height = size
    short = min(size)
    # A target larger than the resized picture would need padding; the catalog has none.
    wide = max(target[0], short_side * width // short)
    high = max(target[1], short_side * height // short)
    left = round((wide - target[0]) / 2)
    top = round((high - target[1]) / 2)
    across, down = width / wide, height / high
    # Rounding may put the far edge a hair outside, which Pillow refuses.
    right = min((left + target[0]) * across, float(width))
    bottom = min((top + target[1]) * down, float(height))
    return left * across, top * down, right, bottom


def within(size: Size, longest_side: int) -> Size:
    """The size of the picture, scaled so that no side is longer; never larger than it is."""
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def seen_box(size: Size, target: Size, short_side: int, resize: Resize) -> Box:
    """The part of an upright picture that a network gets to see.

    Args:
        size: The picture's.
        target: The network's input size.
        short_side: For ``crop``, see `crop_box`.
        resize: See `fit`.
    """
    if resize == "crop":
        return crop_box(size, target, short_side)
    return 0.0, 0.0, float(size[0]), float(size[1])


def fit(
    image: Image.Image,
    *,
    target: Size,
    short_side: int,
    resize: Resize,
    turn: Turn,
    size: Size | None = None,
) -> Image.Image:
    """The picture upright and at the network's input size, always antialiased.

    Bilinear with a support that grows with the reduction, which is what the published
    accuracies were measured with.

    Args:
        image: In any mode Pillow interpolates in: not ``1`` and not ``P``.
        target: (width, height) of the result.
        short_side: For ``crop``, see `crop_box`.
        resize: ``crop`` keeps the shape of things, ``squash`` keeps all of the picture.
        turn: How the stored pixels are turned to be upright.
        size: The stored picture's own, if the image is a reduced copy of it.
    """
    size = size or image.size
    seen = turn.seen(size)
    box = seen_box(seen, target, short_side, resize)
    # Turning after the resize moves 50 thousand pixels in place of 50 million.
    stored = _reduced(turn.stored(box, size), size, image.size)
    small = image.resize(turn.seen(target), Image.Resampling.BILINEAR, box=stored)
    return small if turn.method is None else small.transpose(turn.method)


def _reduced(box: Box, size: Size, to: Size) -> Box:
    """A box of a picture, in the coordinates of a copy reduced by whole eighths.

    The copy's sides are rounded up, so their ratio is not quite the scale of what is in it.
    """
    scale = round(8 * max(to) / max(size)) / 8
    left, top, right, bottom = (edge * scale for edge in box)
    return left, top, min(right, float(to[0])), min(bottom, float(to[1]))
