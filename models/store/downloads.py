"""A version as a client takes it home: what each format is called, and its bytes as they come.

A SavedModel is a folder, so it travels as a zip that is written while it is sent: stored, not
compressed, for weights do not shrink, and never held in memory or on the disk.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from contracts.errors import NotFound
from models.store.derived import derived_path
from models.store.labels import LABELS
from models.store.store import Store

DownloadFormat = Literal["saved_model", "keras", "tflite", "onnx", "labels"]

_CHUNK = 1024 * 1024
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same version gives the same bytes


@dataclass(frozen=True, slots=True)
class Download:
    """What to answer with.

    Attributes:
        filename: What the client should call it.
        media_type: Its content type.
        size: Bytes; None if that is not known before it is sent.
        chunks: The bytes, to be read once.
    """

    filename: str
    media_type: str
    size: int | None
    chunks: Iterator[bytes]


def download(store: Store, model: str, version: int, kind: DownloadFormat) -> Download:
    """A version in a format that is at hand.

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
        case "tflite" | "onnx":
            path = derived_path(store, model, version, kind)
            if not path.is_file():
                raise NotFound(f"'{model}' version {version} has not been converted to {kind}.")
            return _file(path, f"{name}.{kind}", "application/octet-stream")


def _file(path: Path, filename: str, media_type: str) -> Download:
    return Download(filename, media_type, path.stat().st_size, _read(path))


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


class _Outlet:
    """A file that can only be written to; what was written is taken out piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def _zipped(folder: Path, prefix: str) -> Iterator[bytes]:
    outlet = _Outlet()
    with zipfile.ZipFile(outlet, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{prefix}/{path.relative_to(folder).as_posix()}", _EPOCH)
            entry.external_attr = 0o644 << 16
            large = path.stat().st_size >= zipfile.ZIP64_LIMIT
            with archive.open(entry, "w", force_zip64=large) as target:
                for chunk in _read(path):
                    target.write(chunk)
                    yield outlet.take()
    yield outlet.take()
