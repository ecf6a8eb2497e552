"""Generates archives, well-formed and hostile."""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.images import encoded


def photo(number: int, *, image_format: str = "PNG", side: int = 8) -> bytes:
    """A small image that differs from that of any other number."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    return encoded(Image.fromarray(pixels), image_format)


def tree(classes: dict[str, int], *, first: int = 0) -> dict[str, bytes]:
    """Paths and images: the given number of each class, all different."""
    files: dict[str, bytes] = {}
    for label, count in classes.items():
        for _ in range(count):
            number = first + len(files)
            files[f"{label}/{number}.png"] = photo(number)
    return files


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip. The same files always give the same bytes, since entries are dated 1980."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def odd_zip(name: str, data: bytes = b"x", **fields: Any) -> bytes:
    """A zip of valid images and one entry with the given directory record."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, image in tree({"cat": 1}).items():
            archive.writestr(path, image)
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        for field, value in fields.items():
            setattr(entry, field, value)
        archive.writestr(entry, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], *, packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if packed else "w") as archive:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def odd_tar(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> bytes:
    """A tar of a valid image and one entry with the given fields."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, image in tree({"cat": 1}).items():
            header = tarfile.TarInfo(path)
            header.size = len(image)
            archive.addfile(header, io.BytesIO(image))
        odd = tarfile.TarInfo(name)
        odd.type = kind
        for field, value in fields.items():
            setattr(odd, field, value)
        archive.addfile(odd, io.BytesIO(b"\0" * odd.size) if odd.isreg() else None)
    return buffer.getvalue()


def endless_name_tar(size: int = 1 << 33) -> bytes:
    """A tar whose GNU long name claims to have 8 GiB."""
    header = tarfile.TarInfo("././@LongLink")
    header.type = tarfile.GNUTYPE_LONGNAME
    header.size = size
    return header.tobuf(tarfile.GNU_FORMAT) + b"a" * 4096


def chained_tar(kind: bytes, count: int = 2000) -> bytes:
    """A tar of a valid image after very many extension headers."""
    header = tarfile.TarInfo("././@Chain")
    header.type = kind
    note = b"20 comment=aaaaaaa\n" if kind == tarfile.XGLTYPE else b"cat/1.png\0"
    header.size = len(note)
    block = header.tobuf(tarfile.GNU_FORMAT) + note.ljust(512, b"\0")
    return block * count + tarred(tree({"cat": 1}))


def sparse_tar(size: int = 1 << 40) -> bytes:
    """A tar of one GNU sparse file of a terabyte, in a few blocks."""
    header = tarfile.TarInfo("cat/1.png")
    header.type = tarfile.GNUTYPE_SPARSE
    raw = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    raw[483:495] = b"\x80" + b"\0" * 3 + size.to_bytes(8, "big")  # the real size, in base 256
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw) + b"\0" * 1024


def gzip_bomb(megabytes: int = 100) -> bytes:
    """A gzipped tar of zeros: a thousand to one."""
    header = tarfile.TarInfo("cat/zeros.bin")
    header.size = megabytes << 20
    return gzip.compress(header.tobuf() + b"\0" * (header.size + 1024), 9)


def overlapping_zip(entries: int = 50) -> bytes:
    """A zip whose entries are all the same bytes, as in a zip bomb without recursion."""
    raw = zipped({"cat/0.png": photo(0, side=64)})
    at = raw.index(b"PK\x01\x02")
    end = raw.index(b"PK\x05\x06")
    record = raw[at:end]
    names = [f"cat/{number}.png"[:9] for number in range(10)] * (entries // 10)
    directory = b"".join(record.replace(b"cat/0.png", name.encode()) for name in names)
    tail = bytearray(raw[end:])
    tail[8:12] = len(names).to_bytes(2, "little") * 2
    tail[12:16] = len(directory).to_bytes(4, "little")
    return raw[:at] + directory + bytes(tail)


def lying_zip(size: int) -> bytes:
    """A zip of one entry whose directory claims another size than it has."""
    raw = bytearray(zipped({"cat/0.png": b"\0" * 5000}))
    at = raw.index(b"PK\x01\x02")
    raw[at + 24 : at + 28] = size.to_bytes(4, "little")
    return bytes(raw)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def on_disk(root: Path) -> set[str]:
    """Every file and folder below, except lock files."""
    found = {os.path.relpath(path, root) for path in root.rglob("*")}
    return {name for name in found if not name.endswith(".lock") and ".locks" not in name}
