"""The datasets of the tutorials: fetches the files of their publishers, and reads them.

CIFAR-10 and Fashion-MNIST are arrays in formats of their own; their images become PNGs.
The CIFAR file for Python is a pickle, so the binary one is used, which has the same images.
"""

import gzip
import io
import struct
import tarfile
import time
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import IO, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict

from contracts.errors import InvalidArchive, NotFound, Unavailable
from contracts.suggestions import similar
from contracts.training.datasets import LabelSource
from models.datasets.archives.members import Member, member_of
from models.weights.files import DownloadProgress, FetchError, has_digest
from models.weights.https import download

_FETCH_SECONDS = 4 * 3600.0
_IDX_IMAGES, _IDX_LABELS = 0x803, 0x801
_CIFAR_SIDE = 32
_CIFAR_ROW = 1 + 3 * _CIFAR_SIDE * _CIFAR_SIDE


class PublishedFile(BaseModel):
    """One file; without an address it can only be put into the folder by hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    url: str | None = None
    digest: str | None = None


class PublishedDataset(BaseModel):
    """One dataset of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    format: Literal["archive", "idx", "cifar"]
    files: tuple[PublishedFile, ...]
    labels: tuple[str, ...] = ()
    labels_from: LabelSource = "folders"


def published_datasets() -> dict[str, PublishedDataset]:
    """All of them, by name."""
    table = tomllib.loads(resources.files(__package__).joinpath("published.toml").read_text())
    return {name: PublishedDataset.model_validate(entry) for name, entry in table.items()}


def published(name: str) -> PublishedDataset:
    """One of them.

    Raises:
        NotFound: There is none of that name.
    """
    known = published_datasets()
    if name not in known:
        raise NotFound(
            f"'{name}' is not known.{similar(name, known)} Fetch one of {', '.join(known)}."
        )
    return known[name]


def fetch(
    dataset: PublishedDataset,
    folder: Path,
    *,
    offline: bool = False,
    progress: DownloadProgress | None = None,
) -> list[Path]:
    """The files of a dataset, which are downloaded if they are not in the folder.

    Args:
        folder: Is created if necessary. A download that was interrupted is resumed.
        offline: Whether nothing may be downloaded.

    Raises:
        Unavailable: A file is missing and cannot be fetched; says where to put it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_fetched(file, folder, offline, progress) for file in dataset.files]


def _fetched(
    file: PublishedFile, folder: Path, offline: bool, progress: DownloadProgress | None
) -> Path:
    path = folder / file.file
    if path.is_file() and (file.digest is None or has_digest(path, file.digest)):
        return path
    if file.url is None or file.digest is None:
        raise _missing(file, path, "its publisher has no fixed address for it")
    if path.is_file():
        raise _missing(file, path, "the one that is there is another file (its digest differs)")
    if offline:
        raise _missing(file, path, "OPSIN_OFFLINE is set")
    try:
        download(
            file.url,
            path,
            file.digest,
            progress=progress,
            deadline=time.monotonic() + _FETCH_SECONDS,
        )
    except FetchError as error:
        raise _missing(file, path, f"its publisher {error}") from None
    return path


def _missing(file: PublishedFile, path: Path, reason: str) -> Unavailable:
    source = f" from {file.url}" if file.url else ""
    return Unavailable(
        f"{file.file} is not here: {reason}. Put it{source} at {path}.", retry_after=60
    )


def read_published(dataset: PublishedDataset, paths: list[Path]) -> Iterator[Member]:
    """The images of a dataset that is published as arrays.

    Raises:
        InvalidArchive: A file is not of that format.
    """
    try:
        if dataset.format == "idx":
            yield from _read_idx(dataset.labels, paths)
        else:
            yield from _read_cifar(dataset.labels, paths[0])
    except (OSError, EOFError, ValueError, struct.error, tarfile.TarError, IndexError) as error:
        raise InvalidArchive("A file of the dataset is damaged. Fetch it again.") from error


def _read_idx(labels: tuple[str, ...], paths: list[Path]) -> Iterator[Member]:
    train_images, train_labels, test_images, test_labels = paths
    for split, images, classes in (
        ("train", train_images, train_labels),
        ("test", test_images, test_labels),
    ):
        with gzip.open(images, "rb") as pixels, gzip.open(classes, "rb") as numbers:
            magic, count, height, width = struct.unpack(">4I", pixels.read(16))
            if magic != _IDX_IMAGES or struct.unpack(">2I", numbers.read(8)) != (
                _IDX_LABELS,
                count,
            ):
                raise InvalidArchive(f"{images.name} and {classes.name} do not belong together.")
            for number in range(count):
                label = labels[numbers.read(1)[0]]
                image = Image.frombytes("L", (width, height), pixels.read(width * height))
                yield _member(f"{split}/{label}/{number:05d}.png", image)


def _read_cifar(labels: tuple[str, ...], path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r|gz") as archive:
        for header in archive:
            name = header.name.rpartition("/")[2]
            file = archive.extractfile(header) if name.endswith(".bin") else None
            if file is not None:
                split = "test" if name.startswith("test") else "train"
                stem = name.removesuffix(".bin")
                yield from _cifar_batch(file, f"{split}/{{}}/{stem}-{{:05d}}.png", labels)


def _cifar_batch(file: IO[bytes], path: str, labels: tuple[str, ...]) -> Iterator[Member]:
    number = 0
    while len(row := file.read(_CIFAR_ROW)) == _CIFAR_ROW:
        side = (_CIFAR_SIDE, _CIFAR_SIDE)
        planes = [row[at : at + 1024] for at in (1, 1025, 2049)]
        image = Image.merge("RGB", [Image.frombytes("L", side, plane) for plane in planes])
        yield _member(path.format(labels[row[0]], number), image)
        number += 1


def _member(path: str, image: Image.Image) -> Member:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return member_of(path, buffer.getvalue())
