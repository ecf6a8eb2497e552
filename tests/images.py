"""Generated images as bytes, good and hostile; the HTTP tests send the same ones."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Case = tuple[bytes, str | None]  # the bytes, and the error code they end in or None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """A smooth image whose four corners are all different: red, green, blue and yellow-ish."""
    x = np.linspace(0, 1, width)[None, :, None]
    y = np.linspace(0, 1, height)[:, None, None]
    corners = np.array([[230, 30, 30], [30, 200, 60], [40, 60, 220], [220, 210, 40]], float)
    blend = (
        corners[0] * (1 - x) * (1 - y)
        + corners[1] * x * (1 - y)
        + corners[2] * (1 - x) * y
        + corners[3] * x * y
    )
    return Image.fromarray(blend.round().astype(np.uint8))


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """The image as a file of that format."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, color: int = 2, extra: bytes = b""
) -> bytes:
    """A PNG with the given header fields, whose pixels are `rows`, filter bytes included."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows, 9))
        + png_chunk(b"IEND", b"")
    )


def bomb(width: int = 10_000, height: int = 6_000) -> bytes:
    """A valid image of one color: 60 megapixels in 7 kB."""
    row = b"\0" + b"\x00" * ((width + 7) // 8)
    return png(width, height, row * height, depth=1, color=0)


def rgb16_png(levels: npt.NDArray[np.uint16]) -> bytes:
    """A 16-bit color PNG, which Pillow reads but does not write; shape (h, w, 3)."""
    height, width, _ = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return png(width, height, rows, depth=16, color=2)


def tiff(width: int, height: int, body: bytes, **tags: int) -> bytes:
    """A little-endian grey 8-bit TIFF of one strip, with any tag (as ``t<number>``) set."""
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height}
    entries |= {273: 8, 279: len(body)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    ifd = b"".join(struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    offset = 8 + len(body)
    return (
        b"II*\0"
        + struct.pack("<I", offset)
        + body
        + struct.pack("<H", len(entries))
        + ifd
        + b"\0" * 4
    )


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int]) -> bytes:
    """A GIF of one grey frame (left, top, width, height) on a screen of any size."""
    inner = encoded(Image.new("L", frame[2:], 128), "GIF")
    head = b"GIF89a" + struct.pack("<HH", *screen) + inner[10:]
    at = head.index(b",", 13 + 3 * (2 << (head[10] & 7)))
    return head[: at + 1] + struct.pack("<HHHH", *frame) + head[at + 9 :]


def top_down_bmp(image: Image.Image) -> bytes:
    """A 24-bit BMP with a negative height, which means that its first row is the top one."""
    width, height = image.size
    pixels = np.asarray(image)[:, :, ::-1]
    padding = b"\0" * (-width * 3 % 4)
    body = b"".join(row.tobytes() + padding for row in pixels)
    info = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(body), 0, 0, 54) + info + body


def run_length_bmp(width: int, height: int) -> bytes:
    """An 8-bit BMP of a few line ends, each of which Pillow fills in byte by byte in Python."""
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 0, 0)
    palette = b"".join(bytes([255 - level] * 3 + [0]) for level in range(256))
    body = b"\1\2\0\0" * height + b"\0\1"
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + info + palette + body


def many_scans(scans: int = 400) -> bytes:
    """A progressive JPEG that repeats its last scan: a pass over all pixels for a few bytes."""
    photo = encoded(scene(), "JPEG", progressive=True)
    last = photo.rindex(b"\xff\xda")
    return photo[:last] + photo[last:-2] * scans + b"\xff\xd9"


def oriented(orientation: int, image_format: str = "JPEG") -> bytes:
    """The scene stored so that the EXIF `orientation` turns it upright again."""
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = scene() if back is None else scene().transpose(back)
    exif = Image.Exif()
    exif[274] = orientation
    lossless = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}
    return encoded(stored, image_format, exif=exif, **lossless.get(image_format, {}))


def palette_with_alpha() -> bytes:
    """A PNG of a palette whose entries are opaque red, half-transparent blue and nothing."""
    image = Image.new("P", (60, 40), 0)
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    image.paste(1, (20, 0, 40, 40))
    image.paste(2, (40, 0, 60, 40))
    return encoded(image, "PNG", transparency=bytes([255, 128, 0]))


def animation(image_format: str) -> bytes:
    """Three frames: red, green, blue."""
    frames = [Image.new("RGB", (40, 30), color) for color in ("red", "lime", "blue")]
    return encoded(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50)


def good_images() -> dict[str, bytes]:
    """Odd but readable files."""
    levels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    deep = Image.fromarray(levels)
    height_map = Image.fromarray(np.linspace(-50, 900, 64 * 64, dtype=np.float32).reshape(64, 64))
    with_alpha = scene()
    with_alpha.putalpha(Image.linear_gradient("L").resize(with_alpha.size))
    plain = {f"plain {name}": encoded(scene(), name) for name in FORMATS}
    turned = {f"orientation {n}": oriented(n) for n in range(1, 9)}
    return (
        plain
        | turned
        | {
            "1 x 1": encoded(Image.new("RGB", (1, 1), "teal"), "PNG"),
            "1 x 10000": encoded(Image.new("L", (1, 10_000), 90), "PNG"),
            "10000 x 1": encoded(Image.new("L", (10_000, 1), 90), "PNG"),
            "progressive JPEG": encoded(scene(), "JPEG", progressive=True),
            "grey JPEG": encoded(scene().convert("L"), "JPEG"),
            "CMYK JPEG": encoded(scene().convert("CMYK"), "JPEG", quality=95),
            "CMYK TIFF": encoded(scene().convert("CMYK"), "TIFF"),
            "JPEG and garbage": encoded(scene(), "JPEG") + b"garbage" * 1000,
            "16-bit grey PNG": encoded(deep, "PNG"),
            "16-bit grey TIFF": encoded(deep, "TIFF"),
            "16-bit color PNG": rgb16_png(np.dstack([levels] * 3)),
            "float TIFF": encoded(height_map, "TIFF"),
            "1-bit PNG": encoded(scene().convert("1"), "PNG"),
            "1-bit fax TIFF": encoded(scene().convert("1"), "TIFF", compression="group4"),
            "RGBA PNG": encoded(with_alpha, "PNG"),
            "RGBA WebP": encoded(with_alpha, "WEBP"),
            "LA PNG": encoded(with_alpha.convert("LA"), "PNG"),
            "palette with alpha": palette_with_alpha(),
            "animated GIF": animation("GIF"),
            "animated WebP": animation("WEBP"),
            "animated PNG": animation("PNG"),
            "TIFF of three pages": animation("TIFF"),
            "BMP with negative height": top_down_bmp(scene()),
            "run-length BMP": run_length_bmp(60, 40),
            "a PNG called photo.jpg": encoded(scene(), "PNG"),
        }
    )


def hostile_images() -> dict[str, Case]:
    """Hostile and odd images, each with the error code it must end in (None: it is readable)."""
    photo = encoded(scene(640, 480), "JPEG", quality=90)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64
    text_chunk = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 30_000_000, 9))
    broken: dict[str, bytes] = {
        "empty": b"",
        "one byte": b"\xff",
        "text called photo.png": b"I am not a picture, whatever my name says.\n" * 20,
        "truncated JPEG": photo[: len(photo) // 2],
        "truncated PNG": encoded(scene(), "PNG")[:-200],
        "truncated WebP": encoded(scene(), "WEBP")[:-100],
        "truncated BMP": encoded(scene(), "BMP")[:-100],
        "truncated GIF": encoded(scene(), "GIF")[:-500],
        "truncated TIFF": encoded(scene(), "TIFF")[:-500],
        "only a PNG signature": b"\x89PNG\r\n\x1a\n",
        "only a JPEG signature": b"\xff\xd8\xff\xe0",
        "PNG of no size": png(0, 0, b""),
        "BMP of no size": b"BM" + encoded(scene(), "BMP")[2:18] + b"\0" * 8,
        "PNG text bomb": png(1, 1, b"\0\0\0\0", extra=text_chunk * 3),
        "JPEG of 400 scans": many_scans(),
        "GIF of no frame": b"GIF89a" + struct.pack("<HH", 9, 9) + b"\0\0\0;",
        "TIFF loop": b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0",
        "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n",
        "EPS in disguise": b"\xc5\xd0\xd3\xc6" + b"\0" * 28 + b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "HEIC": heic,
        "AVIF": encoded(scene(), "AVIF"),
        "ICO": encoded(scene().resize((32, 32)), "ICO"),
        "JPEG 2000": encoded(scene(), "JPEG2000"),
        "PPM": encoded(scene(), "PPM"),
        "ZIP": b"PK\x03\x04\x14\0\0\0\x08\0" + b"\0" * 60,
    }
    too_large: dict[str, bytes] = {
        "60-megapixel bomb": bomb(),
        "PNG that claims 30000 x 30000": png(30_000, 30_000, b"\0" * 100),
        "PNG that claims 2^31": png(2**31 - 1, 2**31 - 1, b"\0" * 100),
        "GIF with a screen of 65535 x 65535": gif((65_535, 65_535), (0, 0, 8, 8)),
        "TIFF bomb": tiff(20_000, 20_000, b"\0" * 64),
        "TIFF of one huge tile": tiff(9, 9, b"\0" * 64, t322=32_768, t323=32_768, t324=8, t325=64),
        "run-length BMP of 50 megapixels": run_length_bmp(50_000, 1000),
        "WebP that claims 16384 x 16384": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0"
        + b"\xff\x3f\0" * 2
        + b"\0" * 8,
    }
    return (
        {name: (data, "invalid_image") for name, data in broken.items()}
        | {name: (data, "image_too_large") for name, data in too_large.items()}
        | {name: (data, None) for name, data in good_images().items()}
    )
