"""Archives of many programs: which are read, and what is said about the others."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.errors import InvalidArchive
from models.datasets.archives import tar
from models.datasets.archives.limits import Limits
from models.datasets.store import DatasetStore
from tests.models.datasets.packing import photo, tarred, tree, zipped

GOOD = tree({"cat": 3, "dog": 3})


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    return DatasetStore(tmp_path / "datasets", Limits(free_bytes=0))


def with_header(name: str, kind: bytes, content: bytes = b"") -> bytes:
    """A tar that begins with an entry of that kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        header = tarfile.TarInfo(name)
        header.type = kind
        header.size = len(content)
        archive.addfile(header, io.BytesIO(content) if content else None)
        for path, data in GOOD.items():
            header = tarfile.TarInfo(path)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    packed = bytearray(buffer.getvalue())
    if content:  # `tarfile` writes the size of ordinary files only
        packed[512:512] = content.ljust(512, b"\0") if packed[512:515] == b"cat" else b""
    return bytes(packed)


def version_7() -> bytes:
    """A tar without a signature, as before 1988."""
    packed = bytearray(tarred(GOOD))
    for at in range(0, len(packed), 512):
        if packed[at + 257 : at + 262] == b"ustar":
            packed[at + 257 : at + 265] = b"\0" * 8
            packed[at + 148 : at + 156] = b" " * 8
            packed[at + 148 : at + 156] = b"%06o\0 " % sum(packed[at : at + 512])
    return bytes(packed)


def zip64() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in GOOD.items():
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(data)
    return buffer.getvalue()


def streamed_zip() -> bytes:
    """A zip written to a pipe: the sizes follow the data."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError

    buffer = Pipe()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in GOOD.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def without_end(blocks: int = 0) -> bytes:
    """A tar that its program has not closed; an end mark are two blocks of zeros."""
    end = 512 + len(tarred(GOOD).rstrip(b"\0")) // 512 * 512
    return tarred(GOOD)[: end + blocks * 512]


READ: dict[str, Callable[[], bytes]] = {
    "GNU label": lambda: with_header("backup 2024", b"V"),
    "GNU incremental": lambda: with_header("cat/", b"D", b"Y0.png\0\0"),
    "version 7": version_7,
    "version 7, gzipped": lambda: gzip.compress(version_7()),
    "several gzip members": lambda: b"".join(
        gzip.compress(tarred(GOOD)[at : at + 3000]) for at in range(0, len(tarred(GOOD)), 3000)
    ),
    "zeros after gzip": lambda: tarred(GOOD, packed=True) + b"\0" * 5000,
    "half an end mark": lambda: without_end(1),
    "no end mark in a whole gzip": lambda: gzip.compress(without_end()),
    "zip64": zip64,
    "streamed zip": streamed_zip,
    "zip with a comment": lambda: zipped(GOOD)[:-2] + b"\x03\x00abc",
    "zip with stored entries": lambda: zipped(GOOD, zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("kind", READ)
def test_an_archive_is_read(store: DatasetStore, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(READ[kind]())
    assert store.create("x", path).info.classes == {"cat": 3, "dog": 3}


TOLD: dict[str, tuple[bytes, str]] = {
    "7z": (b"7z\xbc\xaf\x27\x1c" + b"\0" * 600, "7z"),
    "rar": (b"Rar!\x1a\x07\x01\0" + b"\0" * 600, "rar"),
    "xz": (lzma.compress(tarred(GOOD)), "xz"),
    "bzip2": (bz2.compress(tarred(GOOD)), "bzip2"),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"\0" * 600, "zstd"),
    "a part of a zip": (b"PK\x07\x08" + b"\0" * 600, "parts"),
    "the last part of a zip": (
        zipped(GOOD).replace(b"PK\x05\x06\0\0\0\0", b"PK\x05\x06\1\0\1\0"),
        "parts",
    ),
    "a gzipped zip": (gzip.compress(zipped(GOOD)), "zip itself"),
    "a gzipped PNG": (gzip.compress(photo(1)), "contains an image (PNG)"),
    "a gzipped table": (gzip.compress(b"file,label\n1.png,cat\n" * 90), "contains text"),
    "a tar without an end mark": (without_end(), "end mark"),
    "a zip of bzip2": (zipped(GOOD, zipfile.ZIP_BZIP2), "by bzip2, which is not read"),
    "a zip of LZMA": (zipped(GOOD, zipfile.ZIP_LZMA), "by LZMA, which is not read"),
    "a web page": (b"\n<!DOCTYPE html><html><title>Sign in</title>", "web page"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "a PNG": (photo(1), "single PNG image"),
    "nothing": (b"", "empty"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_another_file_is_refused_with_what_it_is(
    store: DatasetStore, tmp_path: Path, kind: str
) -> None:
    content, word = TOLD[kind]
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(InvalidArchive) as refused:
        store.create("x", path)
    assert word in refused.value.detail
    assert "zip" in refused.value.detail


@pytest.mark.parametrize("chunk", [7, 8, 9, 10, 11])
def test_a_gzip_of_several_members_may_end_anywhere_in_what_is_read(
    store: DatasetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """As bgzip and `cat a.gz b.gz` make them: one in 65,536 ended a byte before what was read."""
    monkeypatch.setattr(tar, "_CHUNK", chunk)
    packed, path = tarred(GOOD), tmp_path / "x.tar.gz"
    parts = [packed[at : at + 1000] for at in range(0, len(packed), 1000)]
    path.write_bytes((b"\0" * 3).join(map(gzip.compress, parts)))
    assert len(store.create("x", path).files) == len(GOOD)
