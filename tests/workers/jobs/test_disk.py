"""Waiting for a disk: a folder that cannot be written to, or that gets more room."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from typing import Any, cast

import pytest
import tensorflow as tf

from contracts.errors import DiskUnusable, Unavailable
from contracts.failures import client_error, disk_error
from contracts.settings import MIB, Settings
from contracts.work import WorkStoppedError
from database.jobs.leases import Lease
from workers.jobs import child, disk
from workers.jobs.disk import becomes_usable


def test_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_free", lambda _folder: 100 * MIB)  # others use this disk too
    assert not becomes_usable([tmp_path, tmp_path / "missing"], 1, lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_room_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ballast = tmp_path / "ballast"
    ballast.touch()
    monkeypatch.setattr(disk, "_free", lambda _folder: (0 if ballast.exists() else 100) * MIB)
    Timer(0.7, ballast.unlink).start()
    assert becomes_usable([tmp_path], 20, lambda: None)


def test_room_on_another_disk_does_not_end_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, other = tmp_path / "full", tmp_path / "other"
    full.mkdir()
    other.mkdir()
    ballast, room = full / "ballast", iter([100, 200])
    ballast.touch()
    monkeypatch.setattr(
        disk, "_free", lambda folder: (0 if folder == full else next(room, 200)) * MIB
    )
    monkeypatch.setattr(disk, "_can_write", lambda folder: folder != full or not ballast.exists())
    Timer(1.5, ballast.unlink).start()
    assert becomes_usable([full, other], 20, lambda: None)


def test_room_is_measured_on_the_folders_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert disk._free(tmp_path) == pytest.approx(free, abs=10 * 1024 * MIB)


def test_cancelled_job_does_not_wait(tmp_path: Path) -> None:
    def stopped() -> None:
        raise WorkStoppedError("cancelled")

    with pytest.raises(WorkStoppedError):
        becomes_usable([tmp_path], 60, stopped)


def test_a_full_disk_is_recognized_without_a_number() -> None:
    copied = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])
    written = tf.errors.ResourceExhaustedError(
        None, None, "/x/saved_model; No space left on device"
    )
    for error in (copied, written):
        assert isinstance(client_error(error, "training"), DiskUnusable)
    memory = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
    assert "Out of memory" in client_error(memory, "training").detail


def test_other_errors_are_not_the_disks() -> None:
    assert disk_error(OSError(5, "Input/output error")) is None
    assert disk_error(ConnectionRefusedError(111, "Connection refused")) is None


def test_a_disk_too_full_to_end_a_job_is_relieved_of_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    work = settings.jobs_home / "job_1" / "work"
    work.mkdir(parents=True)
    (work / "features").write_bytes(bytes(1000))
    monkeypatch.setattr(child, "has_room", lambda *_: not work.exists())
    monkeypatch.setattr(child, "_POLL_SECONDS", 0.01)
    ends: list[bool] = []

    class FullDatabase:
        def succeed(self, *_: object) -> bool:
            ends.append(work.exists())
            if work.exists() or len(ends) < 6:  # others take what is freed
                raise Unavailable("The disk of the database is full. Free space on it.")
            return True

    def attempt(url: str | None) -> child.JobAttempt:
        there = settings.model_copy(update={"database_url": url})
        lease, leases = Lease("job_1", "w1", 1, "evaluation", {}), cast("Any", FullDatabase())
        one = child.JobAttempt(
            lease,
            cast("Any", None),
            leases,
            there,
            "",
            consents=cast("Any", None),
            held=ExitStack(),
        )
        monkeypatch.setattr(one, "_announce", lambda: None)
        return one

    with pytest.raises(Unavailable):  # that database is not on this disk
        attempt("postgresql+psycopg://there/opsin")._end({})
    with monkeypatch.context() as patch:
        patch.setattr(child, "has_room", lambda *_: True)
        with pytest.raises(Unavailable):  # it is only locked
            attempt(None)._end({})
    assert attempt(None)._end({})
    assert ends == [True, True, True, False, False, False]
