"""Jobs in processes of their own: order, metrics, files, and how many attempts they get."""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from contracts.errors import Unavailable
from contracts.jobs import Job, JobKind, Progress
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs, new_job_id
from database.jobs.leases import MAX_CRASHES, MAX_OUT_OF_MEMORY, MAX_STALLED_ATTEMPTS, Lease, Leases
from tests.database.conftest import Clock
from tests.database.jobs.listing import listed


def made(jobs: Jobs, kind: JobKind = "training") -> Job:
    return jobs.create(kind, {"steps": 1}, limit=100).job


def taken(leases: Leases, worker: str = "w1") -> Lease:
    lease = leases.claim_next("training", worker, 60)
    assert lease is not None
    return lease


def test_oldest_job_of_a_queue_comes_first(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    ids = []
    for kind in ("training", "dream", "quantize"):
        ids.append(made(jobs, kind).id)
        clock.advance(1)
    beside = jobs.create("classify", {"model": "squeezenet"}, limit=100).job
    places = [jobs.get(one).queue_position for one in (*ids, beside.id)]
    assert places == [1, 1, 2, None]
    assert jobs.depths() == {"training": (2, 0), "pictures": (1, 0)}
    assert taken(leases).job_id == ids[0]
    assert jobs.get(ids[2]).queue_position == 1
    assert jobs.depths() == {"training": (1, 1), "pictures": (1, 0)}
    assert taken(leases).job_id == ids[2]
    assert leases.claim_next("training", "w1", 60) is None
    assert jobs.destination(ids[1]) == ("pictures", "")
    assert jobs.destination(beside.id) == (None, "squeezenet")


def test_dataset_is_needed_until_the_job_has_ended(jobs: Jobs, leases: Leases) -> None:
    job = jobs.create("training", {"dataset_id": "ds_1"}, limit=100).job
    assert jobs.needs_dataset("ds_1")
    assert not jobs.needs_dataset("ds_2")
    taken(leases)
    assert jobs.needs_dataset("ds_1")
    lease = leases.get(job.id, "w1", 1)
    assert lease is not None
    assert leases.succeed(lease, {})
    assert not jobs.needs_dataset("ds_1")


def test_inputs_are_moved_and_event_log_is_removed_with_the_job(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "jobs", tmp_path / "logs")
    job_id, archive = new_job_id(), tmp_path / "upload"
    archive.write_bytes(b"zip")
    files.store_inputs(job_id, {"archive": archive})
    assert (files.work(job_id) / "archive").read_bytes() == b"zip"
    assert not archive.exists()
    (tmp_path / "logs" / job_id).mkdir(parents=True)
    files.end_work(job_id)
    assert (tmp_path / "logs" / job_id).exists()
    assert files.remove(job_id)
    assert not (tmp_path / "logs" / job_id).exists()
    (tmp_path / "logs" / job_id).symlink_to(tmp_path)  # which is not followed
    assert not files.remove(job_id)


def test_entries_are_in_order_and_replaced(jobs: Jobs, leases: Leases) -> None:
    job = made(jobs)
    lease = taken(leases)
    assert leases.metrics(lease, "head:1", {"epoch": 1, "loss": 2})
    assert leases.artifact(lease, "preview.png", "image/png", 10)
    assert leases.metrics(lease, "head:2", {"epoch": 2, "loss": 1})
    first = jobs.history(job.id)
    assert [entry.sequence for entry in first.entries] == [1, 2, 3]
    assert leases.artifact(lease, "preview.png", "image/png", 20)
    assert leases.metrics(lease, "head:1", {"epoch": 1, "loss": 3})
    later = jobs.history(job.id, 3)
    assert [(entry.sequence, entry.name) for entry in later.entries] == [
        (4, "artifact"),
        (5, "metrics"),
    ]
    # A replaced row keeps its place.
    now = jobs.get(job.id)
    assert now.metrics == [{"epoch": 1, "loss": 3}, {"epoch": 2, "loss": 1}]
    assert [one.size for one in now.artifacts] == [20]
    assert now.artifacts[0].url == f"/v1/jobs/{job.id}/artifacts/preview.png"
    assert listed(jobs).items == [now]


def test_a_stream_of_events_reads_nothing_large(jobs: Jobs, engine: Engine) -> None:
    """A sweep of a megabyte, followed by 128 streams, each of which reads it twice a second."""
    large = {"dataset_id": "x" * 100_000}
    job = jobs.create("sweep", large, limit=10).job
    read: list[int] = []

    def noted(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        read.append(len(re.findall(r"\b(request|result)\b", statement)))

    event.listen(engine, "after_cursor_execute", noted)
    history = jobs.history(job.id)
    event.remove(engine, "after_cursor_execute", noted)
    assert history.job == job.model_copy(update={"about": None, "queue_position": None})
    assert read
    assert sum(read) == 0


def test_lost_lease_writes_nothing(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    job = made(jobs)
    old = taken(leases)
    clock.advance(61)
    new = taken(leases, "w2")
    assert leases.status(old) == "lost"
    assert not leases.metrics(old, "head:1", {"epoch": 1})
    assert not leases.artifact(old, "a.png", "image/png", 1)
    assert not leases.progress(old, Progress(fraction=0.9))
    assert not leases.release(old)
    assert not leases.succeed(old, {})
    assert jobs.history(job.id).entries == []
    assert leases.status(new) == "held"
    assert leases.get(job.id, "w2", new.attempt) == new
    assert leases.get(job.id, "w1", old.attempt) is None


def test_attempts_with_progress_are_not_counted(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    job = made(jobs)
    for attempt in range(1, 31):
        lease = taken(leases)
        assert lease.attempt == attempt
        leases.progress(lease, Progress(fraction=attempt / 100))
        assert leases.release(lease)
        assert leases.sweep(3600).failed == []
    # From here on it never gets further than before.
    for _ in range(MAX_STALLED_ATTEMPTS):
        lease = taken(leases)
        leases.progress(lease, Progress(fraction=0.3))
        assert leases.release(lease)
    assert leases.claim_next("training", "w1", 60) is None
    clock.advance(1)
    assert leases.sweep(3600).failed == [job.id]
    error = jobs.get(job.id).error
    assert error is not None
    assert "without progress" in error.detail


def test_new_metrics_row_is_progress_and_a_replaced_one_is_not(jobs: Jobs, leases: Leases) -> None:
    made(jobs)
    for attempt in range(2 * MAX_STALLED_ATTEMPTS):
        lease = taken(leases)
        leases.metrics(lease, f"head:{attempt // 5}", {"epoch": attempt // 5})
        leases.release(lease)
    for _ in range(MAX_STALLED_ATTEMPTS - 4):
        lease = taken(leases)
        leases.metrics(lease, "head:0", {"epoch": 0})
        leases.release(lease)
    assert leases.claim_next("training", "w1", 60) is None


def test_out_of_memory_is_given_up_sooner(jobs: Jobs, leases: Leases) -> None:
    job = made(jobs)
    for _ in range(MAX_OUT_OF_MEMORY):
        assert jobs.get(job.id).error is None
        assert leases.release(taken(leases), out_of_memory=True)
    failed = jobs.get(job.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "Out of memory" in failed.error.detail


def test_crashes_are_given_up_sooner_without_progress(jobs: Jobs, leases: Leases) -> None:
    job = made(jobs)
    for attempt in range(1, 2 * MAX_CRASHES):
        lease = taken(leases)
        leases.progress(lease, Progress(fraction=attempt / 100))
        assert leases.release(lease, crashed=True)
    for _ in range(MAX_CRASHES):
        assert not leases.has_ended(job.id)
        assert leases.release(taken(leases), crashed=True)
    assert leases.has_ended(job.id)
    failed = jobs.get(job.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "crashed" in failed.error.detail


def test_stopped_worker_costs_no_attempt(jobs: Jobs, leases: Leases) -> None:
    job = made(jobs)
    for _ in range(3 * MAX_STALLED_ATTEMPTS):
        assert leases.release(taken(leases), stopped=True)
    assert jobs.get(job.id).state == "running"
    assert leases.claim_next("training", "w1", 60) is not None


def test_a_job_may_be_given_back_for_later(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    locked = made(jobs).id
    for _ in range(3 * MAX_STALLED_ATTEMPTS):
        lease = taken(leases)
        assert lease.job_id == locked
        assert leases.release(lease, stopped=True, pause=30)
        clock.advance(29)
        assert leases.claim_next("training", "w2", 60) is None
        clock.advance(1)
    other = made(jobs).id
    assert leases.release(taken(leases), stopped=True, pause=30)
    assert taken(leases, "w2").job_id == other, "it has its turn meanwhile"


def test_jobs_of_a_dead_worker_are_free_at_once(jobs: Jobs, leases: Leases) -> None:
    ids = {made(jobs).id, made(jobs).id}
    assert {taken(leases).job_id, taken(leases).job_id} == ids
    assert leases.holders() == {"w1"}
    assert leases.claim_next("training", "w2", 60) is None
    assert leases.release_all("w1") == 2
    assert leases.holders() == set()
    assert {taken(leases, "w2").job_id, taken(leases, "w2").job_id} == ids


def test_files_are_removed_with_their_row(
    jobs: Jobs, leases: Leases, files: JobFiles, clock: Clock
) -> None:
    kept, deleted, old, cancelled = (made(jobs).id for _ in range(4))
    for job_id in (kept, deleted, old, cancelled):
        files.store_inputs(job_id, {"image.bin": b"1"})
        files.store_artifact(job_id, "a.png", b"2")
    jobs.cancel(cancelled)
    assert not files.work(cancelled).exists()
    assert (files.root / cancelled / "artifacts" / "a.png").exists()
    for _ in range(3):
        leases.succeed(taken(leases), {})
    jobs.delete(deleted)
    assert not (files.root / deleted).exists()
    clock.advance(3600)
    assert jobs.purge(timedelta(hours=2)) == 0
    jobs.remove_orphans()
    # Its process was killed between the end and the tidying up.
    assert not files.work(kept).exists()
    assert jobs.purge(timedelta(minutes=30)) == 3
    assert not list(files.root.iterdir())


def test_more_folders_than_a_statement_has_parameters_are_swept(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, rows = made(jobs).id, dict[str, bool]()
    ids = [*(f"job_{number}" for number in range(260_000)), job_id]
    monkeypatch.setattr(JobFiles, "sweep", lambda _, finished: rows.update(finished(ids)))
    jobs.remove_orphans()
    assert rows == {job_id: False}


def test_old_orphans_are_swept(jobs: Jobs, files: JobFiles) -> None:
    orphan, young, waiting = new_job_id(), new_job_id(), made(jobs).id
    for job_id in (orphan, young, waiting):
        files.store_inputs(job_id, {"image.bin": b"1"})
    for job_id in (orphan, waiting):
        os.utime(files.root / job_id, (0, 0))
    (files.root / "mine").mkdir()
    jobs.remove_orphans()
    assert {path.name for path in files.root.iterdir()} == {young, waiting, "mine"}


def test_replaced_artifact_is_never_seen_half_written(files: JobFiles) -> None:
    job_id = new_job_id()
    files.store_artifact(job_id, "a.png", b"first")
    opened = files.open_artifact(job_id, "a.png")
    files.store_artifact(job_id, "a.png", b"the second")
    assert os.read(opened, 100) == b"first"
    os.close(opened)
    assert [path.name for path in (files.root / job_id / "artifacts").iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", ".hidden", "a\\b", "\x00", "x" * 101])
def test_invalid_file_name_is_refused(files: JobFiles, name: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        files.store_artifact(new_job_id(), name, b"")
    with pytest.raises(ValueError, match="letters"):
        files.store_inputs(new_job_id(), {name: b""})
    assert not files.root.exists()


def test_error_of_a_full_disk_contains_no_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable) as raised:
        JobFiles(tmp_path / "file").store_inputs(new_job_id(), {"a": b""})
    assert str(tmp_path) not in raised.value.detail


def test_one_process_at_a_time_locks_the_folder(files: JobFiles) -> None:
    job_id = new_job_id()
    with files.locked(job_id, 0), pytest.raises(TimeoutError), files.locked(job_id, 0.1):
        pass
    with files.locked(job_id, 0):
        pass
