import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from contracts.held_files import MAX_HELD, HeldFile, ReplacedError

OLD = bytes(range(256)) * 4000
NEW = OLD[::-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(OLD)
    return tmp_path / "file"


@pytest.fixture
def crowd(path: Path) -> Iterator[list[HeldFile]]:
    """As many as are held, so that the next one is not."""
    files = [held(path) for _ in range(MAX_HELD)]
    yield files
    for file in files:
        file.close()


def held(path: Path) -> HeldFile:
    return HeldFile(partial(os.open, path, os.O_RDONLY))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(NEW)
    other.replace(path)


def open_files() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208


def test_a_held_file_is_read_to_the_end_after_it_was_replaced(path: Path) -> None:
    file = held(path)
    parts = file.read()
    first = next(parts)
    replace(path)
    assert first + b"".join(parts) == OLD
    assert b"".join(file.read(1000)) == OLD[1000:]
    file.close()
    file.close()


def test_beyond_the_held_ones_a_file_is_opened_for_each_part(
    path: Path, crowd: list[HeldFile]
) -> None:
    before = open_files()
    file = held(path)
    assert b"".join(file.read(1000)) == OLD[1000:]
    parts = file.read()
    next(parts)
    assert open_files() == before
    replace(path)
    with pytest.raises(ReplacedError):
        next(parts)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        next(file.read())
    assert open_files() == before


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_what_nobody_reads_on_is_closed(path: Path, crowd: list[HeldFile]) -> None:
    before = open_files()
    crowd.pop()
    assert open_files() == before - 1
    file = held(path)
    assert open_files() == before
    file.close()
    assert open_files() == before - 1


def test_a_small_file_is_read_at_once(path: Path) -> None:
    path.write_bytes(b"small")
    before = open_files()
    file = held(path)
    assert open_files() == before
    replace(path)
    assert b"".join(file.read()) == file.content == b"small"
    assert b"".join(file.read(2)) == b"all"
    path.write_bytes(b"")
    assert b"".join(held(path).read()) == b""
