"""What phones send, and what surrounds an image in a file."""

import errno
import io
import os
import resource
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from contracts.errors import ImageTooLarge, InvalidImage, Unavailable
from contracts.settings import Settings
from models import confined_process
from models.catalog import CATALOG
from models.images import isolated
from models.images.decode import DecodedImage, decode, decode_reduced, decode_upright
from models.images.formats import sniff
from models.images.jpeg_structure import read_structure
from models.images.png import only_needed
from tests.images import (
    HEIC,
    broken_chunk,
    claiming,
    display_p3,
    encoded,
    motion_photo,
    netpbm_kinds,
    oriented,
    png_chunk,
    png_with,
    scene,
)
from tests.phone_heic import iphone_heic

NETWORK = CATALOG["squeezenet"]
MAX_PIXELS = Settings.model_fields["max_image_pixels"].default


def read(data: bytes) -> DecodedImage:
    return decode(data, network=NETWORK, resize="squash", max_pixels=MAX_PIXELS)


def difference(data: bytes, expected: Image.Image) -> int:
    """The largest difference of any level from the expected image."""
    size = NETWORK.input_size[::-1]
    small = np.asarray(expected.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    return int(np.abs(read(data).pixels.astype(int) - small).max())


def test_a_video_behind_a_jpeg_is_not_read() -> None:
    still = encoded(scene(1600, 1200), "JPEG", quality=90)
    whole = motion_photo(still)
    assert read_structure(whole).end == len(still)
    np.testing.assert_array_equal(read(whole).pixels, read(still).pixels)


def test_markers_within_metadata_are_not_counted() -> None:
    still = encoded(scene(), "JPEG")
    metadata = b"\xff\xe5" + struct.pack(">H", 402) + b"\xff\xda" * 100 + b"\xff\xd9" * 100
    data = still[:2] + metadata + still[2:]
    structure = read_structure(data)
    assert (structure.end, structure.scans) == (len(data), 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 1}])
def test_only_a_jpeg_without_all_rows_is_refused(mode: str, options: dict[str, object]) -> None:
    whole = encoded(scene(640, 480).convert(mode), "JPEG", quality=90, **options)
    for data in (whole[:-2], whole[:-1]):
        np.testing.assert_array_equal(read(data).pixels, read(whole).pixels)
    for cut in (8, 100, len(whole) // 2):
        with pytest.raises(InvalidImage, match="Send all of the file"):
            read(whole[:-cut])


def test_a_multi_picture_jpeg_is_decoded_like_a_plain_one() -> None:
    large = scene(2400, 1800)
    several = encoded(large, "MPO", quality=90, save_all=True, append_images=[scene()])
    with Image.open(io.BytesIO(several)) as opened:
        assert opened.format == "MPO"
    kept = decode(several, network=NETWORK, max_pixels=MAX_PIXELS, keep_pixels=MAX_PIXELS)
    assert kept.full_size is None  # it was decoded at a reduced size, as a JPEG is
    assert (kept.width, kept.height) == large.size


@pytest.mark.parametrize("name", ["scene", "turned-by-container", "turned-by-exif", "sequence"])
def test_heic_is_the_upright_main_image(name: str) -> None:
    data = (HEIC / f"{name}.heic").read_bytes()
    image = read(data)
    assert (image.width, image.height) == scene().size
    assert difference(data, scene()) <= 25
    assert decode_upright(data, max_pixels=MAX_PIXELS).size == scene().size
    assert decode_reduced(data, longest_side=48, max_pixels=MAX_PIXELS).pixels.shape == (32, 48, 3)


def test_heic_of_tiles_that_the_container_turns() -> None:
    """As an iPhone stores it. Its EXIF says that the image is still to be turned, and is wrong."""
    upright = scene(300, 400)
    data = iphone_heic(upright)
    assert decode_upright(data, max_pixels=MAX_PIXELS).size == (300, 400)
    assert difference(data, upright) <= 25


def test_heic_of_ten_bits_and_with_alpha() -> None:
    assert difference((HEIC / "ten-bit.heic").read_bytes(), scene()) <= 25
    pixels = read((HEIC / "alpha.heic").read_bytes()).pixels
    assert pixels[0].min() >= 240  # transparent at the top, so white
    assert pixels[-1].min() < 120


@pytest.mark.parametrize("brand", ["mif1", "heim", "heis", "hevc", "msf1", "heix"])
def test_brands_of_heif(brand: str) -> None:
    heic = (HEIC / "scene.heic").read_bytes()
    assert sniff(heic[:8] + brand.encode() + heic[12:]) == "HEIF"


def test_avif_is_recognized_by_its_compatible_brands() -> None:
    avif = encoded(scene(), "AVIF")
    assert sniff(avif[:8] + b"mif1" + avif[12:]) == "AVIF"
    assert difference(avif[:8] + b"mif1" + avif[12:], scene()) <= 25


@pytest.mark.parametrize("data", [b"\0\0\0\x18ftypisom", b"\0\0\0\x14ftypqt  \0\0\0\0qt  "])
def test_a_video_is_no_image(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="video"):
        sniff(data)


@pytest.mark.parametrize("name", ["HEIF", "AVIF"])
def test_pixels_of_an_isolated_format_are_limited(name: str) -> None:
    data = (HEIC / "scene.heic").read_bytes() if name == "HEIF" else encoded(scene(), "AVIF")
    assert read(data).width == 96
    with pytest.raises(ImageTooLarge, match="96 x 64"):
        decode(data, network=NETWORK, max_pixels=96 * 64 - 1)


@pytest.mark.parametrize("name", ["HEIF", "AVIF"])
def test_an_image_is_never_larger_than_its_container_states(name: str) -> None:
    data = (HEIC / "scene.heic").read_bytes() if name == "HEIF" else encoded(scene(), "AVIF")
    try:
        image = read(claiming(data, 8, 8))
    except InvalidImage:
        return
    assert (image.width, image.height) == (8, 8)


def test_a_compromised_decoder_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = isolated.HEADER.pack
    outputs = [
        b"",
        pack(b"I", b"RGB", 2, 2, 0, 11) + bytes(11),
        pack(b"I", b"RGB", 2, 2, 0, 12) + bytes(11),
        pack(b"I", b"I;16", 2, 2, 0, 8) + bytes(8),
        pack(b"I", b"RGB", 2**31, 2**31, 0, 2**31),
        pack(b"I", b"RGB", 2, 2, 2**31, 12) + bytes(12),
        pack(b"?", b"RGB", 2, 2, 0, 12) + bytes(12),
    ]
    for output in outputs:
        script = tmp_path / "child.py"
        script.write_text(f"import sys; sys.stdout.buffer.write({output!r})")
        monkeypatch.setattr(isolated, "_CHILD", script)
        with pytest.raises(InvalidImage, match="within the limits"):
            read((HEIC / "scene.heic").read_bytes())


def test_png_chunks_that_pixels_do_not_need_do_no_harm() -> None:
    chunks = {
        "long text": png_chunk(b"tEXt", b"Comment\0" + b"x" * 2_000_000),
        "wrong checksum": broken_chunk(b"gAMA", bytes(4)),
        "broken transparency": broken_chunk(b"tRNS", bytes(6)),
        "short transparency": png_chunk(b"tRNS", bytes(2)),
        "transparency for a palette": png_chunk(b"tRNS", bytes(3)),
        "damaged profile": png_chunk(b"iCCP", b"profile\0\0" + b"not compressed"),
        "endless profile": png_chunk(b"iCCP", b"p\0\0" + zeros()),
        "wrong length": png_chunk(b"pHYs", bytes(2)),
        "private": png_chunk(b"mkBF", bytes(100_000)),
        "damaged EXIF": png_chunk(b"eXIf", b"MM\0*nonsense"),
        "damaged XMP": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros()),
    }
    for name, chunk in chunks.items():
        assert difference(png_with(chunk), scene()) == 0, name
    whole = encoded(scene(), "PNG")
    assert difference(whole[:-12], scene()) == 0  # without IEND
    assert difference(whole + b"garbage", scene()) == 0


def with_checksum(checksum: bytes, *, length: int | None = None, pieces: int = 1) -> bytes:
    """A PNG whose pixels end with that checksum, or with what is left of `length` bytes."""
    whole = encoded(scene(), "PNG")
    at = whole.index(b"IDAT")
    size = int.from_bytes(whole[at - 4 : at])
    pixels = (whole[at + 4 : at + size] + checksum)[:length]
    step = -(-len(pixels) // pieces)
    cut = (pixels[start : start + step] for start in range(0, len(pixels), step))
    return whole[: at - 4] + b"".join(png_chunk(b"IDAT", part) for part in cut) + whole[-12:]


@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_a_png_with_a_wrong_checksum_over_all_rows_is_read(pieces: int) -> None:
    whole = encoded(scene(), "PNG")
    assert whole.count(b"IDAT") == 1
    assert difference(with_checksum(b"\1\2\3\4", pieces=pieces), scene()) == 0
    assert difference(with_checksum(b"", pieces=pieces), scene()) == 0


def test_a_png_that_was_damaged_or_lacks_rows_is_refused() -> None:
    damaged = bytearray(encoded(scene(), "PNG"))
    damaged[damaged.index(b"IDAT") + 4 + 60] ^= 0x10
    for data in (bytes(damaged), with_checksum(b"\1\2\3\4", length=500)):
        with pytest.raises(InvalidImage, match="PNG data"):
            read(data)


def zeros() -> bytes:
    return zlib.compress(bytes(5_000_000))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\r\n" + encoded(scene(), "JPEG"), "line break"),
        (b"\xef\xbb\xbf" + encoded(scene(), "PNG"), "byte order mark"),
        (b"\x89PNG\r\n\x1a\n" + png_chunk(b"CgBI", bytes(4)), "original file"),
        (encoded(scene(), "TGA"), "Targa"),
        (encoded(scene(), "JPEG2000"), "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL"),
        (b"\0\0\0\x18ftypcrx " + bytes(20), "raw photo"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI video"),
    ],
)
def test_what_is_not_read_is_called_by_its_name(data: bytes, words: str) -> None:
    with pytest.raises(InvalidImage, match=words):
        read(data)


@pytest.mark.parametrize("name", ["HEIF", "AVIF", "WEBP", "GIF", "BMP", "TIFF", "PNG", "PPM"])
def test_what_follows_an_image_does_no_harm(name: str) -> None:
    data = encoded(scene(), name) if name != "HEIF" else (HEIC / "scene.heic").read_bytes()
    video = b"\0\0\0\x18ftypmp42" + bytes(16) + b"\0\0\x10\0mdat" + bytes(4088)
    for tail in (bytes(4096), b"garbage" * 1000, video):
        np.testing.assert_array_equal(read(data + tail).pixels, read(data).pixels)


def test_orientation_of_a_png_in_old_places_is_applied() -> None:
    turned = encoded(scene().transpose(Image.Transpose.ROTATE_90), "PNG")
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    raw = b"Raw profile type exif\0\0" + zlib.compress(
        b"\nexif\n%8d\n" % len(exif) + exif.hex().encode()
    )
    for chunk in (png_chunk(b"iTXt", xmp), png_chunk(b"zTXt", raw)):
        data = turned[:33] + chunk + turned[33:]
        assert (read(data).width, read(data).height) == scene().size
    assert read(oriented(6, "PNG")).width == scene().width


@pytest.mark.parametrize("kind", netpbm_kinds())
def test_every_kind_of_netpbm(kind: str) -> None:
    data = netpbm_kinds()[kind]
    expected = {"P1": "1", "P4": "1", "P2": "L", "P5": "L"}.get(kind, "RGB")
    assert difference(data, scene().convert(expected)) <= 2
    with pytest.raises(InvalidImage):
        read(data[:-8])


def test_a_large_plain_ppm_takes_no_loop_over_pixels() -> None:
    data = b"P3 1500 1000 255\n" + b"7 " * 4_500_000
    started = time.process_time()
    assert read(data).pixels.max() == 7
    assert time.process_time() - started < 5


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_colors_of_a_profile_are_converted_to_srgb(image_format: str) -> None:
    profile = display_p3()
    quality = {"quality": 95} if image_format in {"JPEG", "WEBP", "AVIF"} else {}
    image = Image.new("RGB", (64, 64), (200, 60, 40))
    expected = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
    )
    assert expected is not None
    assert expected.getpixel((0, 0))[0] > 210  # type: ignore[index]
    plain = encoded(image, image_format, **quality)
    described = encoded(image, image_format, icc_profile=profile, **quality)
    assert difference(plain, image) <= 4
    assert difference(described, expected) <= 4
    upright = np.asarray(decode_upright(described, max_pixels=MAX_PIXELS)).astype(int)
    assert np.abs(upright - np.asarray(expected)).max() <= 4


def test_a_profile_of_other_colors_or_a_damaged_one_is_ignored() -> None:
    profile = display_p3()
    for bad in (profile[:200], profile[:16] + b"CMYK" + profile[20:], b"nonsense" * 40):
        assert difference(encoded(scene(), "PNG", icc_profile=bad), scene()) == 0
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(encoded(scene(), "PNG", icc_profile=srgb), scene()) == 0


def test_alpha_survives_the_conversion_of_colors() -> None:
    image = scene()
    image.putalpha(0)
    data = encoded(image, "PNG", icc_profile=display_p3())
    assert read(data).pixels.min() == 255


def test_an_image_of_50_megapixels_as_phones_count_them_is_accepted() -> None:
    data = encoded(Image.new("1", (8192, 6144)), "PNG")
    assert read(data).width == 8192


def test_an_orientation_of_a_million_fractions_is_not_read() -> None:
    count = 400_000
    exif = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 274, 5, count, 26) + bytes(4)
    buffer = io.BytesIO()
    scene().save(buffer, "WEBP", exif=b"Exif\0\0" + exif + bytes((1, 0, 0, 0)) * (2 * count))
    began = time.thread_time()
    assert read(buffer.getvalue()).width == scene().width
    assert time.thread_time() - began < 1  # not seconds


def test_a_profile_with_a_chain_of_matrices_takes_no_time() -> None:
    """One of a thousand matrices would take seconds, and 4 MiB hold half a million."""

    def matrix(rows: int, columns: int) -> bytes:
        numbers = np.eye(rows, columns).ravel().tolist() + [0.0] * rows
        head = struct.pack(">4s4xHH", b"matf", columns, rows)
        return head + struct.pack(f">{len(numbers)}f", *numbers)

    first, middle, last = matrix(15, 3), matrix(15, 15), matrix(3, 15)
    count = 1002
    start = 16 + 8 * count
    places = [(start, len(first)), *[(start + len(first), len(middle))] * (count - 2)]
    places.append((start + len(first) + len(middle), len(last)))
    chain = struct.pack(">4s4xHHI", b"mpet", 3, 3, count)
    chain += b"".join(struct.pack(">II", *place) for place in places) + first + middle + last
    white = struct.pack(">iii", 63190, 65536, 54061)
    tags = struct.pack(">I4sII", 1, b"D2B1", 144, len(chain))
    head = struct.pack(">I4sI12s12x4s28xI", 144 + len(chain), b"lcms", 0x04300000,
                       b"mntrRGB XYZ ", b"acsp", 1)  # fmt: skip
    profile = (head + white).ljust(128, b"\0") + tags + chain
    assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space == "RGB "
    buffer = io.BytesIO()
    scene().save(buffer, "PNG", icc_profile=profile)
    assert len(buffer.getvalue()) < len(encoded(scene(), "PNG")) + 1000
    began = time.thread_time()
    np.testing.assert_array_equal(
        read(buffer.getvalue()).pixels, read(encoded(scene(), "PNG")).pixels
    )
    assert time.thread_time() - began < 1  # not seconds


def test_a_ppm_of_a_million_comments_is_refused() -> None:
    began = time.thread_time()
    with pytest.raises(InvalidImage, match="damaged"):
        read(b"P2 2 2 255\n" + b"#\n" * 2_000_000 + b"1 1 1 1")
    assert read(b"P1 2 2\n" + b"#\n" * 9000 + b"0 1\n01").width == 2
    assert time.thread_time() - began < 1


def test_a_process_with_a_thousand_connections_decodes_phone_images() -> None:
    data = encoded(Image.new("RGB", (40, 30), "red"), "AVIF")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    try:
        assert read(data).width == 40
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_decoder_that_cannot_be_started_is_not_the_images_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(confined_process.subprocess, "Popen", refuse)
    with pytest.raises(Unavailable):
        read(encoded(Image.new("RGB", (40, 30), "red"), "AVIF"))


@pytest.mark.parametrize(
    ("kind", "beginning"), [(b"iCCP", b"x\0\0"), (b"zTXt", b"Raw profile type exif\0\0")]
)
def test_few_of_many_compressed_chunks_are_unpacked(kind: bytes, beginning: bytes) -> None:
    """Each becomes a megabyte: ten thousand, some kilobytes of gzip, would take half a minute."""
    bomb = png_chunk(kind, beginning + zlib.compress(bytes(1 << 21), 9))
    raw = png_with(*[bomb] * 2000)
    began = time.process_time()
    assert len(only_needed(raw)) < len(png_with()) + len(bomb)
    assert time.process_time() - began < 2


def test_a_good_chunk_after_bad_ones_is_used() -> None:
    bad = png_chunk(b"zTXt", b"Raw profile type exif\0\0no zlib")
    others = [png_chunk(b"tEXt", b"Comment\0abc")] * 100
    good = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"exif"))
    assert good in only_needed(png_with(bad, *others, bad, good))
