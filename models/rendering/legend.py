"""Words beside pictures: a title above, and a bar that says which colour means how much."""

from PIL import Image, ImageDraw, ImageFont

from models.rendering.colormaps import LEVELS, Colours

_PAPER, _INK = (255, 255, 255), (24, 24, 24)
_SMALLEST, _LARGEST = 10, 64
_FINEST = 200
"""A picture this wide has the smallest letters."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_of(size: int) -> Font:
    """Pillow's own font, Aileron (CC0), at a height in pixels."""
    return ImageFont.load_default(size)


def text_size(width: int) -> int:
    """The height of letters that suits a picture of that width, in pixels."""
    return max(_SMALLEST, min(_LARGEST, width * _SMALLEST // _FINEST))


def with_legend(picture: Image.Image, title: str, colours: Colours) -> Image.Image:
    """The picture with its title above and the bar of colours, from 0 to 1, below."""
    size = text_size(picture.width)
    font = font_of(size)
    line = size * 2
    whole = Image.new("RGB", (picture.width, picture.height + 2 * line), _PAPER)
    whole.paste(picture, (0, line))
    draw = ImageDraw.Draw(whole)
    margin = size // 2
    middle = line // 2
    fitted = shortened(title, font, picture.width - 2 * margin)
    draw.text((margin, middle), fitted, _INK, font, anchor="lm")
    foot = line + picture.height + middle
    draw.text((margin, foot), "0", _INK, font, anchor="lm")
    draw.text((picture.width - margin, foot), "1", _INK, font, anchor="rm")
    across = picture.width - 4 * margin - 2 * size
    if across > 0:
        bar = Image.new("P", (LEVELS, 1))
        bar.putdata(range(LEVELS))
        bar.putpalette(colours.tobytes())
        whole.paste(
            bar.convert("RGB").resize((across, size)), (2 * margin + size, foot - size // 2)
        )
    return whole


def shortened(text: str, font: Font, width: int) -> str:
    """The text, its end left out where it would be wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    kept = next((n for n in range(len(text), 0, -1) if font.getlength(text[:n] + "…") <= width), 0)
    return text[:kept].rstrip() + "…" if kept else ""
