"""Jobs that the disk has no room for are refused before they are queued."""

from pathlib import Path

import pytest

from contracts.errors import DiskUnusable
from contracts.settings import MIB, Settings
from service.jobs.disk_room import require_disk


def settings(home: Path) -> Settings:
    return Settings(_env_file=None, home=home)


def test_room_for_a_version_is_required(tmp_path: Path) -> None:
    require_disk(settings(tmp_path))
    require_disk(settings(tmp_path), MIB)
    with pytest.raises(DiskUnusable, match=r"has \d+ MB left, and this job needs about \d+"):
        require_disk(settings(tmp_path), 10**18)
    assert list((tmp_path / "store").iterdir()) == []


def test_store_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(DiskUnusable, match="model store cannot be written to"):
        require_disk(settings(tmp_path), MIB)


def test_folder_that_does_not_exist_yet_has_room(tmp_path: Path) -> None:
    require_disk(settings(tmp_path / "new"), MIB)
