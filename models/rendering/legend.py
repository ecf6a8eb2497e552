"""The legend of a heatmap: a title above it and a color bar below."""

from PIL import Image, ImageDraw, ImageFont

from models.rendering.colormaps import LEVELS, Colors

_PAPER, _INK = (255, 255, 255), (24, 24, 24)
_SMALLEST, _LARGEST = 10, 64
_FINEST = 200  # pixels: an image this wide has the smallest letters
_MAX_LINES = 4

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_of(size: int) -> Font:
    """Pillow's own font, Aileron (CC0), at a size in pixels."""
    return ImageFont.load_default(size)


def text_size(width: int) -> int:
    """The font size for an image of that width, in pixels."""
    return max(_SMALLEST, min(_LARGEST, width * _SMALLEST // _FINEST))


def percent(probability: float) -> str:
    """A probability for people: that of a class which is possible is not 0.0%."""
    return "<0.1%" if 0 < probability < 0.0005 else f"{probability:.1%}"


def with_legend(image: Image.Image, title: str, colors: Colors, *, size: int = 0) -> Image.Image:
    """The image with its title above and the color bar, from 0 to 1, below.

    Args:
        image: RGB.
        title: Wrapped to the width of the image.
        colors: See `models.rendering.colormaps`.
        size: Of the letters, in pixels; 0: in proportion to the image.
    """
    size = size or text_size(image.width)
    font = font_of(size)
    margin = size // 2
    titles = wrapped(title, font, image.width - 2 * margin)
    line, step = size * 2, size * 4 // 3
    head = line + step * (len(titles) - 1)
    whole = Image.new("RGB", (image.width, head + image.height + line), _PAPER)
    whole.paste(image, (0, head))
    draw = ImageDraw.Draw(whole)
    for number, text in enumerate(titles):
        draw.text((margin, line // 2 + number * step), text, _INK, font, anchor="lm")
    foot = head + image.height + line // 2
    draw.text((margin, foot), "0", _INK, font, anchor="lm")
    draw.text((image.width - margin, foot), "1", _INK, font, anchor="rm")
    across = image.width - 4 * margin - 2 * size
    if across > 0:
        bar = Image.new("P", (LEVELS, 1))
        bar.putdata(range(LEVELS))
        bar.putpalette(colors.tobytes())
        whole.paste(
            bar.convert("RGB").resize((across, size)), (2 * margin + size, foot - size // 2)
        )
    return whole


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """The text in at most four lines of at most `width` pixels; the rest is cut off."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width or not lines[-1] or len(lines) == _MAX_LINES:
            lines[-1] = longer
        else:
            lines.append(word)
    return [shortened(line, font, width) for line in lines]


def shortened(text: str, font: Font, width: int) -> str:
    """The text, cut off with an ellipsis if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    end = next((n for n in range(len(text), 0, -1) if font.getlength(text[:n] + "…") <= width), 0)
    return text[:end].rstrip() + "…" if end else ""
