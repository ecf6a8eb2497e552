"""Downloads of a version: the file name, the content type and the bytes of each format.

A SavedModel is a folder, so it is sent as a zip that is written on the fly, never held in memory
or on the disk. Its members are stored, not compressed, because weights do not shrink.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contracts.errors import NotFound
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
    "weights_h5": ".weights.h5",
}
_CHUNK = 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same version gives the same bytes


@dataclass(frozen=True, slots=True)
class Download:
    """A file for a client.

    Attributes:
        size: In bytes; None if it is not known before everything is sent.
        chunks: The content; can be iterated over once.
    """

    filename: str
    media_type: str
    size: int | None
    chunks: Iterator[bytes]


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
            chunks = _zipped(folder / "saved_model", name)
            return Download(f"{name}.zip", "application/zip", None, chunks)
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
    return Download(filename, "application/json", len(content), iter((content,)))


def _file(path: Path, filename: str, media_type: str) -> Download:
    return Download(filename, media_type, path.stat().st_size, _read(path))


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


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


def _zipped(folder: Path, prefix: str) -> Iterator[bytes]:
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
