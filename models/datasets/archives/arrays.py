"""Reads arrays of images: the .npz files of `keras.datasets` and of many benchmarks.

Each image becomes a PNG in the folder of its label, so that all that follows is as for an archive.
Arrays of Python objects, which are pickles, are never opened. The images are read one at a time.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from tokenize import TokenError
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image

from contracts.errors import InvalidArchive
from models.datasets.archives.limits import Limits
from models.datasets.archives.members import Member, checked_name, member_of, too_many
from models.datasets.dataset import SPLITS, Split
from models.datasets.layout import split_of

SUFFIX = ".npy"
_IMAGES = frozenset({"x", "image", "images", "img", "imgs", "data", "features", "arr0"})
_LABELS = frozenset({"y", "label", "labels", "target", "targets", "arr1"})
_MAX_SIDE = 4096
_MAX_HEADER_BYTES = 64 * 1024  # it may claim 4 GiB, which NumPy would read
# What NumPy and the Python parser that it uses raise for a header that is none.
_NOT_A_HEADER = (ValueError, TypeError, TokenError, RecursionError, MemoryError)
_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_MAX_LABELS_PER_IMAGE = 10_000
_WHAT_TO_DO = (
    "Save uint8 images as x_train, x_test … with the shape (number, height, width) or (number, "
    "height, width, 3), and their integer labels as y_train, y_test …"
)


@dataclass(frozen=True, slots=True)
class _Header:
    """The form of an array, from its first bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, slots=True)
class _Pair:
    """The arrays of one split."""

    images: str
    labels: str
    split: Split | None


def is_arrays(names: list[str]) -> bool:
    """Whether a zip of files with these names holds arrays."""
    return bool(names) and all(name.endswith(SUFFIX) for name in names)


def read_arrays(
    archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], limits: Limits
) -> Iterator[Member]:
    """The images of an .npz.

    Args:
        archive: The file, open.
        entries: Its arrays, by name; `zipfile` may have read the names otherwise.
        limits: What it may hold.

    Raises:
        InvalidArchive: It has no arrays of images and labels that belong together.
    """
    pairs = _pairs(list(entries))
    if not pairs:
        raise InvalidArchive(
            f"The arrays {', '.join(entries)[:200]} are not understood. {_WHAT_TO_DO}"
        )
    count = 0
    for pair in pairs:
        with archive.open(entries[pair.labels]) as file:
            labels = _read_labels(file, pair.labels, limits)
        count += len(labels)
        if count > limits.files:
            raise too_many(limits)
        with archive.open(entries[pair.images]) as file:
            shape = _image_shape(_header(file, pair.images), pair.images, len(labels))
            for number, label in enumerate(labels):
                png = _png(file, shape)
                folder = f"{pair.split}/{label}" if pair.split else str(label)
                yield member_of(checked_name(f"{folder}/{number:06d}.png", limits), png)


def _pairs(names: list[str]) -> list[_Pair]:
    found: dict[str, dict[Split | None, str]] = {"images": {}, "labels": {}}
    for name in sorted(names):
        words = re.split(r"[^a-z0-9]+", name.removesuffix(SUFFIX).rpartition("/")[2].lower())
        if words[0] == "arr":
            words = ["".join(words)]
        split = next((one for word in words if (one := split_of(word)) is not None), None)
        for kind, known in (("images", _IMAGES), ("labels", _LABELS)):
            if known & set(words):
                found[kind].setdefault(split, name)
    images, labels = found["images"], found["labels"]
    return [_Pair(images[one], labels[one], one) for one in (*SPLITS, None)
            if one in images and one in labels]  # fmt: skip


def _header(file: IO[bytes], name: str) -> _Header:
    header = _header_bytes(file)
    try:
        version = np.lib.format.read_magic(header)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(header)
    except _NOT_A_HEADER:
        raise InvalidArchive(f"'{name}' is not a NumPy array. {_WHAT_TO_DO}") from None
    if dtype.hasobject or fortran:
        raise InvalidArchive(f"'{name}' holds objects or is in Fortran order. {_WHAT_TO_DO}")
    return _Header(tuple(map(int, shape)), dtype)  # True is a number as well


def _header_bytes(file: IO[bytes]) -> io.BytesIO:
    """The header alone; empty if it is longer than any real one."""
    start = file.read(8)  # with the version
    size = file.read(2 if start[6:7] == b"\1" else 4)
    length = int.from_bytes(size, "little")
    if length > _MAX_HEADER_BYTES:
        return io.BytesIO()
    return io.BytesIO(start + size + file.read(length))


def _read_labels(file: IO[bytes], name: str, limits: Limits) -> list[int | str]:
    header = _header(file, name)
    rows = header.shape[0] if header.shape else 0
    columns = math.prod(header.shape[1:]) if rows else 1
    kinds = header.dtype.kind in "iubU"
    if rows > limits.files:
        raise too_many(limits)
    # The header of a crafted array may have negative sizes.
    is_table = rows > 0 and 0 < columns <= _MAX_LABELS_PER_IMAGE
    if not is_table or not kinds or header.dtype.itemsize > 512:
        raise InvalidArchive(f"'{name}' holds no labels. {_WHAT_TO_DO}")
    size = rows * columns * header.dtype.itemsize
    if size > limits.image_bytes:
        raise InvalidArchive(f"'{name}' is too large for labels. {_WHAT_TO_DO}")
    values: npt.NDArray[np.generic] = np.frombuffer(_exactly(file, size), header.dtype)
    table = values.reshape(rows, columns)
    if columns > 1:  # a column for each class
        return [int(one) for one in table.argmax(axis=1).tolist()]
    try:
        found = table[:, 0].tolist()
    except (ValueError, SystemError):  # numbers that are no characters
        raise InvalidArchive(f"'{name}' holds no text. {_WHAT_TO_DO}") from None
    return [str(one) if header.dtype.kind == "U" else int(one) for one in found]


def _image_shape(header: _Header, name: str, count: int) -> tuple[int, int, int]:
    shape = header.shape if len(header.shape) == 4 else (*header.shape, 1)
    if header.dtype != np.uint8 or len(shape) != 4 or shape[3] not in _CHANNELS:
        raise InvalidArchive(
            f"'{name}' has the shape {header.shape} and the type {header.dtype}. {_WHAT_TO_DO}"
        )
    if shape[0] != count:
        raise InvalidArchive(f"'{name}' has {shape[0]} images and {count} labels.")
    if not all(0 < side <= _MAX_SIDE for side in shape[1:3]):
        raise InvalidArchive(f"The images of '{name}' may have sides of 1 to {_MAX_SIDE} pixels.")
    return shape[1], shape[2], shape[3]


def _png(file: IO[bytes], shape: tuple[int, int, int]) -> bytes:
    height, width, channels = shape
    data = _exactly(file, height * width * channels)
    buffer = io.BytesIO()
    image = Image.frombytes(_CHANNELS[channels], (width, height), data)
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise InvalidArchive("An array is shorter than it says. Save it again.")
    return data
