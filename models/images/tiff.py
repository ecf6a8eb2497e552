"""Reads what Pillow reads wrongly or not at all: TIFF of several bands with 16 bits or floats.

Pillow has no image of 16-bit colors. It drops the low byte, which leaves nothing of a camera's 12
bits; it mixes the bytes of planes that are stored separately; and it knows no colors as floats. But
it reads one band of any depth. So the file is given another directory, in which a plane is an image
of one band, or red, green and blue are three columns of one, and libtiff uncompresses that.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from contracts.errors import InvalidImage
from models.images.levels import scale_floats, scale_integers
from models.images.resize import ORIENTATIONS, UPRIGHT

Levels = npt.NDArray[Any]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_SIZES = 273, 274, 277, 278, 279
_MAX_LEVEL, _PLANAR, _PREDICTOR = 281, 284, 317
_TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT = 338, 339
_LISTS: Final = (_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES)
_PROFILE: Final = 34675
_COPIED: Final = (_HEIGHT, _COMPRESSION, _ROWS_PER_STRIP, _TILE_LENGTH)
# None, LZW, deflate (two numbers), PackBits, LZMA, Zstandard.
_COMPRESSIONS: Final = {1, 5, 8, 32946, 32773, 34925, 50000}
_GRAY, _RGB = 1, 2  # photometric interpretations
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # sample formats
_SEPARATE = 2  # planar configuration
_UNSPECIFIED = 0  # an extra sample that is not alpha
_DIFFERENCES = 2  # predictor
_SHORT, _LONG, _LONG8 = 3, 4, 16  # types of values
_NUMBER_BYTES: Final = {3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 13: 4, 5: 8, 10: 8, 12: 8, 16: 8}  # by type
_RATIONALS: Final = {5, 10}
# Pillow makes each fraction in Python: a tag of two million holds the interpreter lock for seconds.
_MAX_RATIONALS = 1000
_MAX_PIECES = 100_000  # strips or tiles, of which each is a step of a Python loop as well
# Real directories have some dozens of entries. Pillow reads each in a Python loop, of any number.
_MAX_ENTRIES = 4096
# A number becomes a Python object of 36 bytes. Pieces and color tables have some hundred thousand.
_MAX_NUMBERS = 1_000_000
_TEXTS: Final = {1, 2, 7}  # bytes, ASCII and undefined, which stay as they are


@dataclass(frozen=True, slots=True)
class DeepTiff:
    """A TIFF of several deep bands; only its directory has been read.

    Attributes:
        raw: The file.
        tags: Its first directory.
        size: (width, height) as stored.
        bands: Number of bands of the image, including alpha.
    """

    raw: bytes
    tags: Mapping[int, Any]
    size: tuple[int, int]
    bands: int

    def decode(self) -> Image.Image:
        """Decode it with 8 bits: ``LA``, ``RGB`` or ``RGBA``, upright.

        Raises:
            InvalidImage: It is of a kind that cannot be read.
        """
        levels = self._planes() if self._is_separate else self._interleaved()
        if levels.dtype.kind == "f":
            eight = scale_floats(levels.byteswap() if _is_swapped(self.raw, self.tags) else levels)
        else:
            eight = scale_integers(levels, self.tags.get(_MAX_LEVEL))
        image = Image.fromarray(eight if self.bands > 1 else eight[..., 0])
        upright = ORIENTATIONS.get(self.tags.get(_ORIENTATION, 1), UPRIGHT).apply(image)
        if isinstance(profile := self.tags.get(_PROFILE), bytes):
            upright.info["icc_profile"] = profile
        return upright

    @property
    def _is_separate(self) -> bool:
        return bool(self.tags.get(_PLANAR) == _SEPARATE)

    def _planes(self) -> Levels:
        """Planes that are stored one after the other; each is an image of one band."""
        offsets = _STRIP_OFFSETS if _STRIP_OFFSETS in self.tags else _TILE_OFFSETS
        count = len(self.tags[offsets]) // _samples(self.tags)
        planes = []
        for band in range(self.bands):
            part = slice(band * count, (band + 1) * count)
            lists = {tag: self.tags[tag][part] for tag in _LISTS if tag in self.tags}
            directory = self._directory(1, self.tags.get(_PREDICTOR, 1)) | lists
            planes.append(_read_band(self.raw, directory))
        return np.dstack(planes)

    def _interleaved(self) -> Levels:
        """Bands side by side, as the columns of an image that is wider by their number."""
        lists = {tag: self.tags[tag] for tag in _LISTS if tag in self.tags}
        samples = _samples(self.tags)
        band = _read_band(self.raw, self._directory(samples, 1) | lists)
        levels = band.reshape(self.size[1], self.size[0], samples)
        if self.tags.get(_PREDICTOR, 1) == _DIFFERENCES:
            levels = self._summed(levels)
        return levels[..., : self.bands]

    def _summed(self, levels: Levels) -> Levels:
        """Undo the predictor, which stores the difference from the pixel to the left."""
        width = self.tags.get(_TILE_WIDTH, self.size[0])
        columns = range(0, self.size[0], width)
        return np.hstack([levels[:, x : x + width].cumsum(1, levels.dtype) for x in columns])

    def _directory(self, columns: int, predictor: int) -> dict[int, Sequence[int]]:
        """The directory of one band, without the places of its data."""
        tags = self.tags
        directory = {tag: (int(tags[tag]),) for tag in _COPIED if tag in tags}
        if _TILE_WIDTH in tags:
            directory[_TILE_WIDTH] = (tags[_TILE_WIDTH] * columns,)
        return directory | {
            _WIDTH: (self.size[0] * columns,),
            _BITS: (tags[_BITS][0],),
            _PHOTOMETRIC: (_GRAY,),
            _SAMPLES: (1,),
            _PREDICTOR: (predictor,),
            _SAMPLE_FORMAT: (_sample_format(tags),),
        }


def open_deep_tiff(raw: bytes) -> DeepTiff | None:
    """Read the directory of a TIFF; None if Pillow reads the image itself.

    Raises:
        InvalidImage: It has bands that no color stands for, or of a kind that cannot be read, or
            its tags would take too long to read.
    """
    directory: Any = TiffImagePlugin.ImageFileDirectory_v2(raw[: 16 if _is_big(raw) else 8])
    _require_few_entries(raw, directory.next)
    file = io.BytesIO(raw)
    file.seek(directory.next)
    directory.load(file)
    _require_few_steps(directory)
    tags = dict(directory)
    bits, samples = tags.get(_BITS, (1,)), _samples(tags)
    photometric = tags.get(_PHOTOMETRIC)
    if _sample_format(tags) == _SIGNED and max(bits) <= 8:
        raise InvalidImage("The TIFF has signed 8-bit levels. Save it with unsigned ones.")
    if samples == 1 and not (max(bits) == 32 and _is_swapped(raw, tags)):
        return None
    if photometric not in (_GRAY, _RGB):
        return None
    colors = 3 if photometric == _RGB else 1
    if not colors <= samples <= colors + 1:
        # One alpha may follow; anything else is measured, not seen.
        raise InvalidImage(
            f"The TIFF has {samples} bands, and it is not known which are red, green and blue. "
            "Save these three as RGB."
        )
    if max(bits) <= 8:
        return None
    kind = _sample_format(tags), bits[0]
    if kind not in ((_UNSIGNED, 16), (_FLOAT, 32)) or len(set(bits)) > 1:
        raise InvalidImage(
            f"The TIFF has colors of {bits[0]} bits of a kind that is not supported. "
            "Save it with 8 bits."
        )
    is_summed = tags.get(_PREDICTOR, 1) in (1, _DIFFERENCES) or tags.get(_PLANAR) == _SEPARATE
    if tags.get(_COMPRESSION, 1) not in _COMPRESSIONS or not is_summed:
        raise InvalidImage("The TIFF is compressed in a way that is not supported for its colors.")
    has_alpha = samples > colors and _UNSPECIFIED not in tags.get(_EXTRA_SAMPLES, (_UNSPECIFIED,))
    return DeepTiff(raw, tags, (tags[_WIDTH], tags[_HEIGHT]), colors + has_alpha)


def _require_few_entries(raw: bytes, at: int) -> None:
    """Refuse a directory of more entries than any real one, before the loop over them."""
    count = raw[at : at + (8 if _is_big(raw) else 2)]
    if int.from_bytes(count, "little" if raw[:1] == b"I" else "big") > _MAX_ENTRIES:
        raise InvalidImage(f"The TIFF has more than {_MAX_ENTRIES:,} tags. Save it again.")


def _require_few_steps(directory: Any) -> None:
    """Refuse a directory that would keep Pillow busy for seconds, or fill the memory."""
    counts = {
        tag: len(data) // _NUMBER_BYTES.get(directory.tagtype.get(tag), 1)
        for tag, data in directory._tagdata.items()  # Pillow has no public access to it
        if directory.tagtype.get(tag) not in _TEXTS
    }
    if any(counts.get(tag, 0) > _MAX_PIECES for tag in _LISTS):
        raise InvalidImage("The TIFF is stored in too many tiny strips or tiles. Save it again.")
    fractions = [count for tag, count in counts.items() if directory.tagtype[tag] in _RATIONALS]
    if sum(fractions) > _MAX_RATIONALS:
        raise InvalidImage("The TIFF has far too many fractions in its tags. Save it again.")
    if sum(counts.values()) > _MAX_NUMBERS:
        raise InvalidImage("The TIFF has far too many numbers in its tags. Save it again.")


def _is_big(raw: bytes) -> bool:
    """Whether it is a BigTIFF, with offsets of 64 bits."""
    return raw[2:4] in (b"+\0", b"\0+")


def _is_swapped(raw: bytes, tags: Mapping[int, Any]) -> bool:
    """Whether Pillow changes the order of bytes that libtiff has already changed."""
    return raw[:1] == b"M" and tags.get(_COMPRESSION, 1) != 1


def _samples(tags: Mapping[int, Any]) -> int:
    return int(tags.get(_SAMPLES, 1))


def _sample_format(tags: Mapping[int, Any]) -> int:
    return int(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0])


def _read_band(raw: bytes, directory: Mapping[int, Sequence[int]]) -> Levels:
    """Decode the image of one band that `directory` describes."""
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_with_directory(raw, directory))) as image:
        image.load()
        return np.asarray(image)


def _with_directory(raw: bytes, directory: Mapping[int, Sequence[int]]) -> bytes:
    """The file with another first directory, which is added to its end."""
    order = "<" if raw[:1] == b"I" else ">"
    is_big = _is_big(raw)
    inline, offset_type = (8, "Q") if is_big else (4, "I")
    entries, values, end = [], b"", len(raw) + len(raw) % 2
    for tag, numbers in sorted(directory.items()):
        letter, kind = {
            True: ("Q", _LONG8) if is_big else ("I", _LONG),
            False: ("I", _LONG),
        }[tag in _LISTS]
        if tag not in _LISTS and max(numbers) <= 0xFFFF:
            letter, kind = "H", _SHORT
        value = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(value) > inline:
            where, values = end + len(values), values + value
            value = struct.pack(order + offset_type, where)
        entries.append(struct.pack(f"{order}HH{offset_type}", tag, kind, len(numbers)))
        entries[-1] += value.ljust(inline, b"\0")
    count = struct.pack(order + ("Q" if is_big else "H"), len(entries))
    body = values + count + b"".join(entries) + bytes(inline)
    head = raw[:8] if is_big else raw[:4]
    first = struct.pack(order + offset_type, end + len(values))
    rest = raw[len(head) + inline :]
    return head + first + rest + b"\0" * (len(raw) % 2) + body
