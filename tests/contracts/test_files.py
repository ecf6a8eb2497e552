"""Files that are whole and on the disk, with their names, once they were written."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from contracts.errors import DiskUnusable
from contracts.files import free_bytes, has_room, write_durably
from contracts.settings import Settings
from database.crypto.master_keys import KeyFile
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import add_erased
from models.datasets.archives.limits import Limits
from service.jobs.disk_room import free_of
from tests.tables import make_home


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been flushed, by the path that it had then."""
    flushed: list[str] = []

    def fsync(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

    monkeypatch.setattr(os, "fsync", fsync)
    return flushed


def test_the_content_is_flushed_before_the_name(tmp_path: Path, flushed: list[str]) -> None:
    path = tmp_path / "file"
    assert write_durably(path, b"first")
    assert [Path(one).suffix for one in flushed] == [".part", ""]
    assert flushed[-1] == str(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not write_durably(path, b"second", replaces=False)
    assert path.read_bytes() == b"first"
    assert write_durably(path, b"third")
    assert path.read_bytes() == b"third"
    assert [*tmp_path.iterdir()] == [path]


def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(tmp_path / "file", b"first")
    assert [*tmp_path.iterdir()] == []


def test_a_power_cut_loses_no_key_frame_or_erasure(tmp_path: Path, flushed: list[str]) -> None:
    """Rows that another disk or host keeps need them."""
    keys = KeyFile(tmp_path / "secrets/faces.keys")
    keys.create()
    assert str(tmp_path / "secrets") in flushed
    flushed.clear()
    keys.add()
    assert flushed[-1] == str(tmp_path / "secrets")
    make_home(Settings(_env_file=None, home=tmp_path))
    FaceFiles(tmp_path / "faces").put("sub_a", "ff_1", b"x")
    assert flushed[-2:] == [str(tmp_path / "faces/sub_a"), str(tmp_path / "faces")]
    add_erased(tmp_path, ["sub_0123456789abcdefghij"])
    assert flushed[-1] == str(tmp_path)


@pytest.mark.parametrize(
    ("all_of_them", "left", "has"),
    [
        (1_000_000, 9_999, False),
        (1_000_000, 10_000, True),
        (5_000, 499, False),  # a small disk
        (5_000, 500, True),
        (0, 0, True),  # they are made as they are needed
    ],
)
def test_a_disk_without_inodes_has_no_room_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_of_them: int, left: int, has: bool
) -> None:
    state = SimpleNamespace(f_bavail=1000, f_frsize=4096, f_files=all_of_them, f_favail=left)
    monkeypatch.setattr(os, "statvfs", lambda _: state)
    assert free_bytes(tmp_path) == has * 4_096_000
    assert free_bytes(tmp_path, for_files=False) == 4_096_000
    assert has_room(tmp_path, 1000, 1000) == has
    limits = Limits(free_bytes=1000)
    if has:
        limits.require_room(tmp_path, 1000)
    else:
        with pytest.raises(DiskUnusable):
            limits.require_room(tmp_path, 1000)
        assert free_of(tmp_path) == 0
