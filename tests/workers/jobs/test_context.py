"""The running time of a job over its attempts, and its progress within one."""

from pathlib import Path
from typing import Any

import pytest

from contracts.errors import DiskUnusable
from contracts.jobs import Progress
from contracts.work import HasScopes
from database.jobs.files import JobFiles
from database.jobs.leases import Lease
from workers.jobs.context import ElapsedTime, LeasedWork, run_seconds


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_running_time_is_counted(tmp_path: Path) -> None:
    clock = Clock()
    first = ElapsedTime(tmp_path, clock)
    clock.now += 30
    first.save()
    clock.now += 5  # killed before it is saved again
    assert first.seconds == 35
    clock.now += 86_400  # the next attempt starts a day later
    second = ElapsedTime(tmp_path, clock)
    assert second.seconds == 30
    clock.now += 12
    second.save()
    assert ElapsedTime(tmp_path, clock).seconds == 42


def test_a_pause_is_not_counted(tmp_path: Path) -> None:
    clock = Clock()
    elapsed = ElapsedTime(tmp_path, clock)
    clock.now += 10
    elapsed.pause()
    clock.now += 3600
    assert (elapsed.seconds, elapsed.is_paused) == (10, True)
    elapsed.save()
    assert run_seconds(tmp_path) == 10
    elapsed.resume()
    clock.now += 5
    assert (elapsed.seconds, elapsed.is_paused, elapsed.paused_seconds) == (15, False, 3600)


def test_file_that_is_damaged_or_not_writable_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "run-seconds").write_text("much")
    assert ElapsedTime(tmp_path, Clock()).seconds == 0
    nowhere = ElapsedTime(tmp_path / "none", Clock())
    nowhere.save()
    assert nowhere.seconds == 0


class KeptLeases:
    """Holds the lease, and notes the progress that is written."""

    def has_row(self, lease: Lease, key: str) -> bool:
        return False

    def metrics(self, lease: Lease, key: str, row: dict[str, Any]) -> bool:
        return True

    def __init__(self) -> None:
        self.written: list[Progress] = []

    def progress(self, lease: Lease, progress: Progress) -> bool:
        self.written.append(progress)
        return True


def test_each_phase_moves_the_progress_and_nothing_moves_it_back(tmp_path: Path) -> None:
    """Events are told apart by the fraction; the same attempt always reports the same ones."""
    leases, lease = KeptLeases(), Lease("job_1", "w1", 1, "training", {})
    work = LeasedWork(lease, leases, JobFiles(tmp_path), 1)  # type: ignore[arg-type]
    told = [("loading", 0), ("data", 0), ("head", 0.3), ("head", 0.2), ("export", 0.3), ("end", 1)]
    for phase, fraction in told:
        work.progress(Progress(fraction=fraction, phase=phase))
        work._write_progress()
    assert [one.eta_seconds for one in leases.written[:2]] == [None, None]  # nothing is known yet
    seen = [(one.phase, one.fraction) for one in leases.written]
    assert [phase for phase, _ in seen] == [phase for phase, _ in told]
    expected = [1e-6, 2e-6, 0.3, 0.3, 0.300001, 1]
    assert [fraction for _, fraction in seen] == pytest.approx(expected, abs=1e-9)


def test_only_trainings_count_as_epochs(tmp_path: Path) -> None:
    """Style transfers report rows of the same form, with a phase for each size."""
    counted = []
    for kind in ("training", "style_transfer"):
        lease = Lease("job_1", "w1", 1, kind, {})
        work = LeasedWork(lease, KeptLeases(), JobFiles(tmp_path), 1)  # type: ignore[arg-type]
        work.metrics({"epoch": 1, "phase": "head" if kind == "training" else "512 px"})
        counted.append(any("training_epochs" in name for name in work.counts.read()["c"]))
    assert counted == [True, False]


class HeldLeases(KeptLeases):
    def status(self, lease: Lease) -> str:
        return "held"

    def artifact(self, lease: Lease, name: str, media_type: str, size: int) -> bool:
        return True


def test_results_leave_the_room_that_is_kept_for_others(tmp_path: Path) -> None:
    """A client may ask for images of hundreds of megabytes, one after the other."""
    leases, lease = HeldLeases(), Lease("job_1", "w1", 1, "dream", {})
    files = JobFiles(tmp_path)
    for kept, has_room in ((1, True), (10**18, False)):
        work = LeasedWork(lease, leases, files, 1, kept_bytes=kept)  # type: ignore[arg-type]
        work.folder.mkdir(parents=True, exist_ok=True)
        if has_room:
            work.artifact("result.png", "image/png", b"one")
            continue
        with pytest.raises(DiskUnusable, match="nearly full"):
            work.artifact("result.png", "image/png", b"another")
    assert (tmp_path / "job_1" / "artifacts" / "result.png").read_bytes() == b"one"


@pytest.mark.parametrize("scopes", [None, frozenset({"train", "faces"})])
def test_a_work_knows_the_scopes_of_its_job(tmp_path: Path, scopes: frozenset[str] | None) -> None:
    lease = Lease("job_1", "w1", 1, "training", {}, scopes=scopes)
    work = LeasedWork(lease, KeptLeases(), JobFiles(tmp_path), 1)  # type: ignore[arg-type]
    assert isinstance(work, HasScopes)
    assert work.scopes == (scopes or frozenset())
