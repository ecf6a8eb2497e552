"""Downloads of a version: the file name, the content type and the bytes of each format.

A SavedModel is a folder, so it is sent as a zip that is written on the fly, never held in memory
or on the disk. Its members are stored, not compressed, because weights do not shrink.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from contracts.errors import NotFound
from contracts.held_files import HeldFile
from models.store.derived import DerivedFormat, derived_path
from models.store.labels import LABELS
from models.store.store import Store

DownloadFormat = Literal[
    "saved_model", "keras", "keras_h5", "weights_h5", "architecture", "tflite", "onnx", "labels"
]

_ENDINGS: dict[DerivedFormat, str] = {
    "tflite": ".tflite",
    "onnx": ".onnx",
    "keras_h5": ".h5",
    "weights_h5": "-weights.h5",  # Keras reads files named .weights.h5 in another format
}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same version gives the same bytes


@dataclass(frozen=True, slots=True)
class Download:
    """A file for a client.

    Attributes:
        size: In bytes; None if it is not known before everything is read.
        fingerprint: Another one for other bytes.
        read: The content from an offset on.
        seeks: Whether what precedes the offset costs nothing.
    """

    filename: str
    media_type: str
    size: int | None
    fingerprint: str
    read: Callable[[int], Iterator[bytes]]
    seeks: bool = True

    @property
    def chunks(self) -> Iterator[bytes]:
        """The whole content."""
        return self.read(0)


def download(store: Store, model: str, version: int, kind: DownloadFormat) -> Download:
    """A version in a format that exists already.

    Raises:
        VersionNotFound: The model has no such version.
        NotFound: It has not been converted to that format yet; see `models.store.derived`.
    """
    folder = store.path(model, version)
    name = f"{model}-{version}"
    match kind:
        case "saved_model":
            files = _files_below(folder / "saved_model")
            read = partial(_zipped, folder / "saved_model", name)
            size = _zip_size([(f"{name}/{path}", stat.st_size) for path, stat in files])
            fingerprint = _fingerprint(f"{name}.zip", files)
            return Download(f"{name}.zip", "application/zip", size, fingerprint, read, seeks=False)
        case "keras":
            return _file(folder / "model.keras", f"{name}.keras", "application/octet-stream")
        case "labels":
            return _file(folder / LABELS, f"{name}-labels.json", "application/json")
        case "architecture":
            return _architecture(folder / "model.keras", f"{name}.json")
        case "tflite" | "onnx" | "keras_h5" | "weights_h5":
            path = derived_path(store, model, version, kind)
            if not path.is_file():
                raise NotFound(f"'{model}' version {version} has not been converted to {kind}.")
            return _file(path, f"{name}{_ENDINGS[kind]}", "application/octet-stream")


def _architecture(path: Path, filename: str) -> Download:
    """The layers and their connections, as `keras.Model.to_json` gives them."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read("config.json")
    fingerprint = _fingerprint(filename, [(path.name, path.stat())])
    return Download(
        filename,
        "application/json",
        len(content),
        fingerprint,
        lambda start: iter((content[start:],)),
    )


def _file(path: Path, filename: str, media_type: str) -> Download:
    stat = path.stat()
    fingerprint = _fingerprint(filename, [(path.name, stat)])
    return Download(filename, media_type, stat.st_size, fingerprint, partial(_read, path))


def _fingerprint(name: str, files: Sequence[tuple[str, os.stat_result]]) -> str:
    seen = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]
    return hashlib.sha256(repr((name, seen)).encode()).hexdigest()[:32]


def _read(path: Path, offset: int = 0) -> Iterator[bytes]:
    file = HeldFile(partial(os.open, path, os.O_RDONLY))
    try:
        yield from file.read(offset)
    finally:
        file.close()


class _WriteBuffer:
    """A write-only file whose content is taken out chunk by chunk."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._chunks.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        content, self._chunks = b"".join(self._chunks), []
        return content


def _files_below(folder: Path) -> list[tuple[str, os.stat_result]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat()) for path in paths]


def _zip_size(members: Sequence[tuple[str, int]]) -> int | None:
    """The size of a zip as `_zipped` writes it; None beyond 2 GiB, where its format changes.

    A member takes a local header, its bytes and a data descriptor, and an entry in the directory.
    """
    lengths = [len(name.encode()) for name, _ in members]
    total = sum(30 + n + 16 + 46 + n for n in lengths) + sum(size for _, size in members) + 22
    return total if total < zipfile.ZIP64_LIMIT and len(members) < 0xFFFF else None


def _zipped(folder: Path, prefix: str, offset: int = 0) -> Iterator[bytes]:
    """A zip of the folder, from an offset on; what precedes that is made and dropped."""
    for chunk in _whole_zip(folder, prefix):
        if offset < len(chunk):
            yield chunk[offset:]
        offset = max(0, offset - len(chunk))


def _whole_zip(folder: Path, prefix: str) -> Iterator[bytes]:
    buffer = _WriteBuffer()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{prefix}/{path.relative_to(folder).as_posix()}", _EPOCH)
            entry.external_attr = 0o644 << 16
            large = path.stat().st_size >= zipfile.ZIP64_LIMIT
            with archive.open(entry, "w", force_zip64=large) as target:
                for chunk in _read(path):
                    target.write(chunk)
                    yield buffer.take()
    yield buffer.take()
