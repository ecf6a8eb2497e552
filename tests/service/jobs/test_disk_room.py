"""Jobs that the disk has no room for are refused before they are queued."""

from pathlib import Path
from typing import get_args

import pytest

from contracts.errors import DiskUnusable
from contracts.jobs import JobKind
from contracts.settings import MIB, Settings
from database.installation import FILE
from service.auth.scopes import scope_of_job
from service.jobs.disk_room import require_disk, require_job_room


def settings(home: Path) -> Settings:
    return Settings(_env_file=None, home=home)


def test_room_for_a_version_is_required(tmp_path: Path) -> None:
    require_disk(settings(tmp_path))
    require_disk(settings(tmp_path), MIB)
    with pytest.raises(DiskUnusable, match=r"has \d+ MB left, and this job needs about \d+"):
        require_disk(settings(tmp_path), 10**18)
    assert list((tmp_path / "store").iterdir()) == []
    nearly_full = settings(tmp_path).model_copy(update={"min_free_disk_bytes": 10**18})
    require_disk(nearly_full)
    with pytest.raises(DiskUnusable):
        require_disk(nearly_full, MIB)


def test_store_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    with pytest.raises(DiskUnusable, match="model store cannot be written to"):
        require_disk(settings(tmp_path), MIB)


def test_folder_that_does_not_exist_yet_has_room(tmp_path: Path) -> None:
    require_disk(settings(tmp_path / "new"), MIB)


def test_images_leave_room_for_everything_else(tmp_path: Path) -> None:
    """Whoever may classify may fill the disk with dreams; an enrollment still finds its place."""
    (tmp_path / FILE).write_text("ins_1\n")
    nearly_full = settings(tmp_path).model_copy(update={"min_free_disk_bytes": 10**18})
    require_job_room(nearly_full, "enrollment", MIB)
    for kind in get_args(JobKind):
        if scope_of_job(kind) == "infer":
            with pytest.raises(DiskUnusable):
                require_job_room(nearly_full, kind, MIB)
    with pytest.raises(DiskUnusable):
        require_job_room(settings(tmp_path), "enrollment", 10**18)


def test_no_job_is_accepted_while_the_home_is_missing(tmp_path: Path) -> None:
    for kind in get_args(JobKind):
        with pytest.raises(DiskUnusable, match="not mounted"):
            require_job_room(settings(tmp_path), kind, 0)
