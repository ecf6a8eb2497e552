"""Files that are whole and on the disk, with their names, once they were written."""

import os
from pathlib import Path

import pytest

from contracts.files import write_durably
from contracts.settings import Settings
from database.crypto.master_keys import KeyFile
from database.faces.face_files import FaceFiles
from database.faces.privacy.erased_ids import add_erased
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
