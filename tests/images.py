"""Generated images as bytes, good and hostile; the HTTP tests send the same ones."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Case = tuple[bytes, str | None]  # the bytes, and the error code they end in or None

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
HEIC = Path(__file__).parent / "models" / "images" / "heic"  # Opsin's decoder cannot write it


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
    """A 16-bit PNG that Pillow reads but does not write; RGB or gray and alpha, shape (h, w, n)."""
    height, width, channels = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return png(width, height, rows, depth=16, color={2: 4, 3: 2, 4: 6}[channels])


def tiff(width: int, height: int, body: bytes, **tags: int) -> bytes:
    """A little-endian gray 8-bit TIFF of one strip, with any tag (as ``t<number>``) set."""
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
    """A GIF of one gray frame (left, top, width, height) on a screen of any size."""
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


def display_p3() -> bytes:
    """The color profile of phones, with a plain gamma: wider primaries than those of sRGB."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    gamma = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(2.2 * 256))
    tags = {
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma),
    }
    table, body = b"", b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\2\x40\0\0", b"mntrRGB XYZ ", b"acsp"
    head[68:80] = struct.pack(">3i", 63190, 65536, 54061)  # D50
    head[:4] = struct.pack(">I", 132 + len(table) + len(body))
    return bytes(head) + struct.pack(">I", len(tags)) + table + body


def motion_photo(still: bytes, size: int = 300_000) -> bytes:
    """A JPEG followed by what passes for a video: it contains hundreds of scan markers."""
    video = np.random.default_rng(3).integers(0, 256, size, np.uint8).tobytes()
    return still + b"\0\0\0\x18ftypmp42" + video + b"\xff\xda" * 200 + still[:1000]


def png_with(*chunks: bytes) -> bytes:
    """The scene as PNG with further chunks after its header."""
    data = encoded(scene(), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def broken_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return png_chunk(kind, body)[:-4] + b"\0\1\2\3"


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A HEIF or AVIF of the scene whose container states another size."""
    name = b"ispe\0\0\0\0"
    stated = name + struct.pack(">II", *scene().size)
    assert stated in data
    return data.replace(stated, name + struct.pack(">II", width, height))


def netpbm_kinds() -> dict[str, bytes]:
    """The scene in each kind of PBM, PGM and PPM."""
    color, gray = np.asarray(scene()), np.asarray(scene().convert("L"))
    bits = np.asarray(scene().convert("1"))
    size = b"96 64"

    def digits(levels: npt.NDArray[Any]) -> bytes:
        return b" \n".join(b"%d" % level for level in levels.flat)

    return {
        "P1": b"P1\n# by hand\n96 64\n" + b"".join(b"%d" % (not bit) for bit in bits.flat),
        "P2": b"P2 " + size + b" 255\n# levels\n" + digits(gray) + b"\n",
        "P3": b"P3\n" + size + b"\n65535\n" + digits(color.astype(int) * 257),
        "P4": b"P4\n" + size + b"\n" + np.packbits(~bits, axis=1).tobytes(),
        "P5": b"P5\n#\n" + size + b"\n510\n" + (gray.astype(int) * 2).astype(">u2").tobytes(),
        "P6": b"P6\n" + size + b"\n127\n" + (color // 2).tobytes(),
    }


def phone_images() -> dict[str, bytes]:
    """What phones and their programs send."""
    photo = encoded(scene(), "JPEG", quality=95)
    comment = png_chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000)
    return {
        **{f"{file.stem}.heic": file.read_bytes() for file in sorted(HEIC.glob("*.heic"))},
        "motion photo": motion_photo(photo),
        "JPEG without end marker": photo[:-2],
        "multi-picture JPEG": encoded(scene(), "MPO", save_all=True, append_images=[scene(48, 32)]),
        "JPEG in Display P3": encoded(scene(), "JPEG", icc_profile=display_p3()),
        "PNG of a long comment": png_with(comment),
        "PNG of broken chunks": png_with(broken_chunk(b"pHYs", bytes(9)), b"\0\0\0\0teSt1234"),
    }


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
        | {f"netpbm {kind}": data for kind, data in netpbm_kinds().items()}
        | phone_images()
        | {
            "1 x 1": encoded(Image.new("RGB", (1, 1), "teal"), "PNG"),
            "1 x 10000": encoded(Image.new("L", (1, 10_000), 90), "PNG"),
            "10000 x 1": encoded(Image.new("L", (10_000, 1), 90), "PNG"),
            "progressive JPEG": encoded(scene(), "JPEG", progressive=True),
            "gray JPEG": encoded(scene().convert("L"), "JPEG"),
            "CMYK JPEG": encoded(scene().convert("CMYK"), "JPEG", quality=95),
            "CMYK TIFF": encoded(scene().convert("CMYK"), "TIFF"),
            "JPEG and garbage": encoded(scene(), "JPEG") + b"garbage" * 1000,
            "16-bit gray PNG": encoded(deep, "PNG"),
            "16-bit gray TIFF": encoded(deep, "TIFF"),
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
            "PNG text bomb": png_with(
                *[png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(30_000_000), 9))] * 3
            ),
            "a PNG called photo.jpg": encoded(scene(), "PNG"),
        }
    )


def hostile_images() -> dict[str, Case]:
    """Hostile and odd images, each with the error code it must end in (None: it is readable)."""
    photo = encoded(scene(640, 480), "JPEG", quality=90)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64
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
        "PNG of tiny chunks": png(1, 1, b"\0\0\0\0", extra=png_chunk(b"IDAT", b"") * 60_000),
        "JPEG of tiny segments": b"\xff\xd8" + b"\xff\xfe\0\2" * 60_000,
        "PPM of no size": b"P6 0 0 255\n",
        "truncated PPM": encoded(scene(), "PPM")[:-1],
        "PGM of too high levels": b"P2 1 1 255 256",
        "JPEG of 400 scans": many_scans(),
        "GIF of no frame": b"GIF89a" + struct.pack("<HH", 9, 9) + b"\0\0\0;",
        "TIFF loop": b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0",
        "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n",
        "EPS in disguise": b"\xc5\xd0\xd3\xc6" + b"\0" * 28 + b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "HEIC": heic,
        "truncated HEIC": (HEIC / "scene.heic").read_bytes()[:-600],
        "truncated AVIF": encoded(scene(), "AVIF")[:-100],
        "JPEG XL": b"\xff\x0a" + bytes(40),
        "ICO": encoded(scene().resize((32, 32)), "ICO"),
        "JPEG 2000": encoded(scene(), "JPEG2000"),
        "ZIP": b"PK\x03\x04\x14\0\0\0\x08\0" + b"\0" * 60,
    }
    too_large: dict[str, bytes] = {
        "60-megapixel bomb": bomb(),
        "PNG that claims 30000 x 30000": png(30_000, 30_000, b"\0" * 100),
        "PNG that claims 2^31": png(2**31 - 1, 2**31 - 1, b"\0" * 100),
        "GIF with a screen of 65535 x 65535": gif((65_535, 65_535), (0, 0, 8, 8)),
        "PPM bomb": b"P6 30000 30000 255\n" + bytes(64),
        "PPM of numbers beyond 64 bits": b"P6 9999999999 9999999999 255\n",
        "AVIF that claims 30000 x 30000": claiming(encoded(scene(), "AVIF"), 30_000, 30_000),
        "HEIC that claims 30000 x 30000": claiming(
            (HEIC / "scene.heic").read_bytes(), 30_000, 30_000
        ),
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
