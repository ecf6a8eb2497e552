"""Writes the tar of a backup: as a stream, digests on the way, in place only when it is whole."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

from cli.backup.contents import DIGESTS, HEADER, SECRETS, Header
from cli.backup.snapshot import Snapshot
from contracts.settings import RELEASE

Told = Callable[[int], None]
"""Hears of the bytes that are done since it last heard."""

_MODE = 0o600
_SIZES = "sizes.txt"


def header_of(taken: Snapshot, revision: str | None) -> Header:
    """What a snapshot holds, counted.

    Each file's size is written down in the snapshot's scratch: a log that grows meanwhile is taken
    as long as it was counted.
    """
    count = size = 0
    with (taken.scratch / _SIZES).open("w", encoding="ascii") as sizes:
        for _, path in _files(taken):
            one = path.stat().st_size
            count, size = count + 1, size + one
            sizes.write(f"{one}\n")
    return Header(
        release=RELEASE,
        created_at=datetime.now(UTC),
        database=taken.database,
        revision=revision,
        secrets=SECRETS in taken.areas,
        files=count,
        size=size,
    )


def pack(taken: Snapshot, header: Header, out: Path, told: Told) -> None:
    """Write a snapshot to a file that only its owner can read.

    Args:
        taken: The snapshot.
        header: Its `header_of`.
        out: The file; it appears when all is written and forced to the disk.
        told: Of the progress.

    Raises:
        OSError: The disk does not take it; nothing is left of it.
    """
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with open(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE), "wb") as file:  # noqa: PTH123
            _write(taken, header, file, told)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)


def _write(taken: Snapshot, header: Header, out: IO[bytes], told: Told) -> None:
    said = header.model_dump_json(indent=2).encode()
    list_, counted = taken.scratch / DIGESTS, taken.scratch / _SIZES
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, HEADER, len(said), io.BytesIO(said))
        with list_.open("w", encoding="utf-8") as digests, counted.open(encoding="ascii") as sizes:
            digests.write(line(hashlib.sha256(said).hexdigest(), HEADER))
            for (name, path), size in zip(_files(taken), sizes, strict=True):
                with path.open("rb") as file:
                    hashed = _Hashed(file, told)
                    _add(tar, name, int(size), cast(IO[bytes], hashed))
                digests.write(line(hashed.sha256.hexdigest(), name))
        with list_.open("rb") as file:
            _add(tar, DIGESTS, list_.stat().st_size, file)


def line(sha256: str, name: str) -> str:
    """One line of the digests."""
    return f"{sha256}  {name}\n"


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, _MODE
    tar.addfile(member, content)  # reads no more than `size`
    vars(tar).update(members=[])  # it would remember every one of them


def _files(taken: Snapshot) -> Iterator[tuple[str, Path]]:
    """Every file by the name of its member, area after area, in a fixed order."""
    for area, root in sorted(taken.areas.items()):
        for folder, below, names in os.walk(root):
            below.sort()
            for name in sorted(names):
                path = Path(folder, name)
                yield f"{area}/{path.relative_to(root).as_posix()}", path


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes], told: Told) -> None:
        self.sha256 = hashlib.sha256()
        self._file = file
        self._told = told

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        self._told(len(data))
        return data
