"""Jobs that the disk has no room for are refused before they are queued."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from contracts.errors import DiskUnusable
from contracts.jobs import PICTURE_KINDS, JobKind
from contracts.settings import MIB, Settings
from database.installation import FILE
from service.auth.scopes import scope_of_job
from service.jobs import disk_room
from service.jobs.disk_room import JobRoom, require_disk, require_free, require_row_room


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


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Settings]:
    """Settings of a home, on a disk with so many bytes left, that keep 512 MiB."""
    (tmp_path / FILE).write_text("ins_1\n")

    def with_free(free: int) -> Settings:
        monkeypatch.setattr(disk_room, "free_of", lambda *_, **__: free)
        return settings(tmp_path)

    return with_free


def accepts(room: JobRoom, kind: JobKind, size: int = 0) -> bool:
    try:
        with room.taken(kind, size):
            return True
    except DiskUnusable:
        return False


def test_jobs_of_any_kind_leave_room_and_those_of_infer_leave_more(
    disk: Callable[[int], Settings],
) -> None:
    """Whoever may classify may fill the disk with dreams; an enrollment still finds its place."""
    for kind in get_args(JobKind):
        is_more = scope_of_job(kind) == "infer" or kind in PICTURE_KINDS
        kept = (512 if is_more else 256) * MIB
        assert accepts(JobRoom(disk(kept + MIB)), kind, MIB), kind
        assert not accepts(JobRoom(disk(kept + MIB)), kind, MIB + 1), kind
        assert not accepts(JobRoom(disk(kept - 1)), kind), kind


def test_jobs_that_are_stored_at_the_same_moment_share_no_room(
    disk: Callable[[int], Settings],
) -> None:
    room = JobRoom(disk(512 * MIB))
    with room.taken("enrollment", 200 * MIB):
        assert not accepts(room, "enrollment", 100 * MIB)
        assert accepts(room, "enrollment", 50 * MIB)
    assert accepts(room, "enrollment", 100 * MIB)


def test_rows_leave_room_for_logins_and_these_for_the_ends_of_jobs(
    disk: Callable[[int], Settings],
) -> None:
    require_row_room(disk(128 * MIB))
    with pytest.raises(DiskUnusable, match="this request needs about 128"):
        require_row_room(disk(128 * MIB - 1))
    kept = settings(Path())
    require_free(kept, "lines", 64 * MIB)
    with pytest.raises(DiskUnusable, match="this request needs about 64"):
        require_free(kept, "lines", 64 * MIB - 1)


def test_rows_need_room_where_the_database_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[Path]()

    def full(folder: Path, **_: object) -> int:
        asked.append(folder)
        return 0

    monkeypatch.setattr(disk_room, "free_of", full)
    elsewhere = tmp_path / "elsewhere"
    for url, folder in ((None, tmp_path), (f"sqlite:///{elsewhere / 'opsin.db'}", elsewhere)):
        with pytest.raises(DiskUnusable):
            require_row_room(Settings(_env_file=None, home=tmp_path, database_url=url))
        assert asked.pop() == folder
    url = "postgresql+psycopg://elsewhere/opsin"
    require_row_room(Settings(_env_file=None, home=tmp_path, database_url=url))


def test_no_job_is_accepted_while_the_home_is_missing(tmp_path: Path) -> None:
    for kind in get_args(JobKind):
        with (
            pytest.raises(DiskUnusable, match="not mounted"),
            JobRoom(settings(tmp_path)).taken(kind, 0),
        ):
            pass
