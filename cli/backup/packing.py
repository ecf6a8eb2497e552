"""Writes the tar of a backup as a stream, with digests; it appears only when it is complete."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from cli.backup.contents import DIGESTS, HEADER, SECRETS, Header
from cli.backup.snapshot import Snapshot
from cli.drafts import draft_of
from contracts.settings import RELEASE

ByteProgress = Callable[[int], None]
"""Called with the number of bytes done since the last call."""

_MODE = 0o600
_SIZES = "sizes.txt"


def header_of(content: Snapshot, revision: str | None) -> Header:
    """The header for a snapshot, with its files counted.

    Each file's size is recorded in the snapshot's scratch folder: of a log that grows meanwhile,
    only the counted bytes are packed.
    """
    count = size = 0
    with (content.scratch / _SIZES).open("w", encoding="ascii") as sizes:
        for _, path in _files(content):
            length = path.stat().st_size
            count, size = count + 1, size + length
            sizes.write(f"{length}\n")
    return Header(
        release=RELEASE,
        created_at=content.at,
        database=content.database,
        revision=revision,
        secrets=SECRETS in content.areas and content.areas[SECRETS].is_dir(),
        lost_datasets=content.lost_datasets,
        erased=content.erased,
        files=count,
        size=size,
    )


def pack(content: Snapshot, header: Header, out: Path, progress: ByteProgress) -> None:
    """Write a snapshot to a file that only its owner can read.

    Args:
        header: From `header_of`.
        out: The file; it appears when everything is written and flushed to the disk.

    Raises:
        OSError: It cannot be written; nothing is left of it.
    """
    with draft_of(out, mode=_MODE) as (draft, file):
        _write(content, header, file, progress)
        file.flush()
        os.fsync(file.fileno())
        file.close()
        draft.replace(out)


def _write(content: Snapshot, header: Header, out: IO[bytes], progress: ByteProgress) -> None:
    header_json = header.model_dump_json(indent=2).encode()
    list_, counted = content.scratch / DIGESTS, content.scratch / _SIZES
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, HEADER, len(header_json), io.BytesIO(header_json))
        with list_.open("w", encoding="utf-8") as digests, counted.open(encoding="ascii") as sizes:
            digests.write(digest_line(hashlib.sha256(header_json).hexdigest(), HEADER))
            for (name, path), size in zip(_files(content), sizes, strict=True):
                with path.open("rb") as file:
                    hashed = _HashedFile(file, progress)
                    _add(tar, name, int(size), cast(IO[bytes], hashed))
                digests.write(digest_line(hashed.sha256.hexdigest(), name))
        with list_.open("rb") as file:
            _add(tar, DIGESTS, list_.stat().st_size, file)


def digest_line(sha256: str, name: str) -> str:
    """One line of the digests."""
    return f"{sha256}  {name}\n"


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, _MODE
    tar.addfile(member, content)  # reads no more than `size`
    vars(tar).update(members=[])  # otherwise it keeps all of them


def _files(content: Snapshot) -> Iterator[tuple[str, Path]]:
    """Every file with its member name, area after area, in a fixed order."""
    for area, root in sorted(content.areas.items()):
        for folder, below, names in os.walk(root):
            below.sort()
            for name in sorted(names):
                path = Path(folder, name)
                yield f"{area}/{path.relative_to(root).as_posix()}", path


class _HashedFile(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes], progress: ByteProgress) -> None:
        self.sha256 = hashlib.sha256()
        self._file = file
        self._progress = progress

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        self._progress(len(data))
        return data
