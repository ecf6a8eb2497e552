"""Long jobs end to end, with real job workers, child processes, Valkey and SQLite, and kills."""

import errno
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from threading import Event
from typing import Any

import psutil
import pytest
from sqlalchemy import update

from contracts.errors import Unavailable
from contracts.jobs import FINISHED, LEASE_SECONDS, Job, JobKind
from contracts.settings import MIB
from contracts.tracing.origin import NO_ORIGIN, Origin, TraceContext, set_origin
from database.engine import reading, writing
from database.installation import FILE
from database.jobs.leases import MAX_CRASHES, MAX_STALLED_ATTEMPTS
from database.tables import JobRecord
from tests.collector import collecting
from tests.workers.jobs.installation import Installation
from workers.jobs.slot import Slot, SlotContext
from workers.jobs.worker_id import new_worker_id

KINDS = "tests.workers.jobs.job_handlers:KINDS"


def test_job_runs_from_input_to_result(installation: Installation) -> None:
    installation.worker(job_threads=3, job_niceness=5)
    echo = installation.submit("dream", {"image.bin": b"hello"})
    counted = installation.submit("training", steps=3, pause=0.1)
    job = installation.finish(counted)
    assert job.state == "succeeded", job.error
    assert job.result == {"done": [0, 1, 2], "attempt": 1}
    assert job.metrics == [{"epoch": n, "phase": "head", "loss": None} for n in (1, 2, 3)]
    assert [(a.name, a.media_type, a.size) for a in job.artifacts] == [
        ("preview.png", "image/png", 6)
    ]
    # Both queues run at the same time. A finished job leaves only its artifacts.
    job = installation.finish(echo)
    assert job.result is not None
    job.result.pop("pid")
    assert job.result == {"text": "hello", "nice": 5, "oom_score": "1000", "threads": "3"}
    home = installation.settings.jobs_home
    left = {counted, f"{counted}/artifacts", f"{counted}/artifacts/preview.png"}
    installation.wait(lambda: {str(p.relative_to(home)) for p in home.rglob("*")} == left)
    names = [(entry.sequence, entry.name) for entry in installation.jobs.history(counted).entries]
    assert names == [(1, "metrics"), (3, "metrics"), (5, "metrics"), (6, "artifact")]


def test_jobs_leave_no_temporary_files(installation: Installation) -> None:
    installation.worker()
    ends = installation.submit("dream", {"image.bin": b"hello"})
    dies = installation.submit("heatmap")
    installation.finish(ends)
    installation.until(dies, lambda job: job.attempt == 2)
    installation.jobs.cancel(dies)
    installation.finish(dies)
    files = [f"{folder}{job}" for job in (ends, dies) for folder in ("", "*/")]
    installation.wait(lambda: not any([*Path(gettempdir()).glob(file)] for file in files))


def test_enrollment_has_its_own_slot_and_a_higher_priority(installation: Installation) -> None:
    """A person is waiting in front of the camera."""
    installation.worker(job_niceness=19)
    long = installation.submit("dataset_import", steps=1000, pause=0.1)
    installation.until(long, lambda job: job.state == "running")
    job = installation.finish(installation.submit("enrollment", {"image.bin": b"face"}))
    assert job.result is not None, job.error
    assert job.result["nice"] == 5
    assert installation.jobs.get(long).state == "running"
    installation.jobs.cancel(long)
    installation.finish(long)


def test_image_jobs_do_not_wait_for_an_import(installation: Installation) -> None:
    installation.worker()
    long = installation.submit("dataset_import", steps=1000, pause=0.1)
    installation.until(long, lambda job: job.state == "running")
    job = installation.finish(installation.submit("activations", steps=1, pause=0))
    assert job.state == "succeeded", job.error
    assert installation.jobs.get(long).state == "running"
    installation.jobs.cancel(long)
    installation.finish(long)


def test_process_of_an_enrollment_is_kept_for_the_next(installation: Installation) -> None:
    """Five images take less time than what has to be loaded for them."""

    def enroll(**request: Any) -> str:
        return installation.submit("enrollment", {"image.bin": b"face"}, **request)

    worker = installation.worker(job_niceness=7)
    first, failed, second = enroll(), enroll(raises=True), enroll()
    results = [installation.finish(job_id).result or {} for job_id in (first, second)]
    assert results[0]["pid"] == results[1]["pid"]
    assert results[1]["nice"] == 5  # it was lowered once
    error = installation.finish(failed).error
    assert error is not None
    assert error.detail == "Another image."

    hangs = enroll(hangs=True)
    installation.until(hangs, lambda job: job.state == "running")
    psutil.Process(results[0]["pid"]).kill()
    # The attempt is lost, and the next process hangs too: it has another id.
    (other,) = _until(lambda: installation.children(hangs))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert not other.is_running()


def _until(find: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while not (found := find()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_trainings_and_image_jobs_have_the_same_priority(installation: Installation) -> None:
    """Filters beside a training leave it half of the machine."""
    installation.worker(job_niceness=7)
    image = installation.submit("dream", {"image.bin": b"x"})
    training = installation.submit("training", steps=1, pause=0, tells_nice=True)
    results = [installation.finish(job_id).result or {} for job_id in (image, training)]
    assert [result["nice"] for result in results] == [7, 7]


def test_processes_of_other_kinds_run_one_job(installation: Installation) -> None:
    installation.worker()
    jobs = [installation.submit("dream", {"image.bin": b"x"}) for _ in range(2)]
    first, second = [installation.finish(job_id).result or {} for job_id in jobs]
    assert first["pid"] != second["pid"]


def test_error_of_a_failed_job_has_no_details(installation: Installation) -> None:
    installation.worker()
    unexpected = installation.submit("filters")
    expected = installation.submit("filters", expected=True)
    missing = installation.submit("style_transfer")
    error = installation.finish(unexpected).error
    assert error is not None
    assert error.code == "internal_error"
    assert "secret" not in error.detail
    error = installation.finish(expected).error
    assert error is not None
    assert (error.code, error.detail) == (
        "validation_error",
        "There is no such layer. Choose another.",
    )
    error = installation.finish(missing).error
    assert error is not None
    assert "cannot do 'style_transfer'" in error.detail
    installation.wait(lambda: not list(installation.settings.jobs_home.iterdir()))


@pytest.mark.slow
def test_cancelled_job_stops_within_a_step_and_keeps_artifacts(installation: Installation) -> None:
    installation.worker()
    job_id = installation.submit("training", steps=1000, pause=0.05)
    waiting = installation.submit("training", steps=1, pause=0)
    installation.until(job_id, lambda job: len(job.metrics) > 1)
    assert installation.jobs.get(waiting).queue_position == 1
    installation.jobs.cancel(job_id)
    cancelled_at = time.monotonic()
    job = installation.finish(job_id)
    assert time.monotonic() - cancelled_at < 20
    assert job.state == "cancelled"
    assert job.artifacts
    assert installation.finish(waiting).state == "succeeded"


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_job_whose_child_is_killed_repeatedly_finishes(
    installation: Installation, kills: int
) -> None:
    """More kills than attempts without progress are allowed."""
    installation.worker()
    job_id = installation.submit("training", steps=kills + 2, pause=0.05)
    for kill in range(1, kills + 1):
        installation.until(job_id, lambda job, kill=kill: len(job.metrics) >= kill)
        for child in installation.children(job_id):
            child.kill()
    job = installation.finish(job_id)
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert job.result["done"] == list(range(kills + 2))
    assert [row["epoch"] for row in job.metrics] == list(range(1, kills + 3))
    assert job.attempt > 1
    installation.wait(lambda: not installation.files.work(job_id).exists())


@pytest.mark.slow
def test_job_that_dies_without_progress_is_given_up(installation: Installation) -> None:
    installation.worker()
    job_id = installation.submit("heatmap")

    def is_swept(job: Job) -> bool:
        installation.leases.sweep(30)
        return job.state in FINISHED

    job = installation.until(job_id, is_swept, 90)
    assert (job.state, job.attempt) == ("failed", MAX_STALLED_ATTEMPTS)
    assert job.error is not None
    assert "without progress" in job.error.detail


def test_job_that_crashes_without_progress_is_given_up_soon(installation: Installation) -> None:
    installation.worker()
    job_id = installation.submit("heatmap", {"image.bin": b"1"}, signal=signal.SIGFPE)
    job = installation.finish(job_id)
    assert (job.state, job.attempt) == ("failed", MAX_CRASHES)
    assert job.error is not None
    assert "crashed" in job.error.detail
    installation.wait(lambda: not installation.files.work(job_id).exists())


def test_child_dies_with_its_worker_and_the_next_worker_resumes(installation: Installation) -> None:
    first = installation.worker()
    job_id = installation.submit("training", steps=100, pause=0.05)
    installation.until(job_id, lambda job: len(job.metrics) > 2)
    (child,) = installation.children(job_id)
    first.kill()
    first.wait(60)
    gone, _ = psutil.wait_procs([child], 60)
    assert gone
    installation.worker()
    # Before the lease would have expired.
    installation.until(job_id, lambda job: job.attempt == 2, LEASE_SECONDS)
    job = installation.finish(job_id)
    assert (job.state, job.attempt) == ("succeeded", 2)
    assert job.result is not None
    assert job.result["done"] == list(range(100))


def test_stopped_worker_gives_its_job_back(installation: Installation) -> None:
    first = installation.worker()
    job_id = installation.submit("training", steps=10_000, pause=0.05)
    installation.until(job_id, lambda job: len(job.metrics) > 2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == 0
    assert not installation.children(job_id)
    assert installation.jobs.get(job_id).state == "running"
    # Another worker can take it at once.
    assert installation.leases.claim_next("training", "w2", 60) is not None


@pytest.mark.slow
def test_restart_of_valkey_does_not_disturb_jobs(installation: Installation) -> None:
    installation.worker()
    job_id = installation.submit("training", steps=60, pause=0.05)
    installation.until(job_id, lambda job: len(job.metrics) > 2)
    installation.valkey.kill()
    later = installation.submit("training", steps=1, pause=0)
    installation.valkey.start()
    job = installation.finish(job_id)
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert installation.finish(later).state == "succeeded"


@pytest.mark.slow
def test_missing_weights_and_keys_end_a_job_at_once_with_their_own_words(
    installation: Installation,
) -> None:
    installation.worker()
    for missing, code, detail in (
        ("weights", "model_not_ready", "Pull the weights."),
        ("key", "dependency_unavailable", "A key is missing."),
    ):
        job = installation.finish(installation.submit("filters", **{missing: True}))
        assert (job.state, job.attempt) == ("failed", 1)
        assert job.error is not None
        assert (job.error.code, job.error.detail) == (code, detail)


def test_faults_that_no_attempt_mends_end_a_job_at_once(installation: Installation) -> None:
    installation.worker()
    expected = {
        installation.submit("filters", errno=errno.ENOENT): ("not_found", "deleted: a-file.jpg"),
        installation.submit("filters", errno=errno.EACCES): (
            "dependency_unavailable",
            "may not write",
        ),
        installation.submit("filters", key=True): ("dependency_unavailable", "A key is missing."),
    }
    for job_id, (code, words) in expected.items():
        job = installation.finish(job_id)
        assert (job.state, job.attempt) == ("failed", 1)
        assert job.error is not None
        assert job.error.code == code
        assert words in job.error.detail
        assert "/some/path" not in job.error.detail


def test_job_has_a_phase_from_the_first_second(installation: Installation) -> None:
    job_id = installation.submit("dataset_import", steps=1, pause=0.1)
    lease = installation.leases.claim_next("datasets", "w0", 60)
    assert lease is not None
    progress = installation.jobs.get(job_id).progress
    assert (progress.phase, progress.fraction) == ("start", 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_disk_that_stays_unusable_fails_a_job_after_one_attempt(
    installation: Installation, number: int
) -> None:
    installation.worker()
    job = installation.finish(installation.submit("filters", errno=number))
    assert (job.state, job.attempt) == ("failed", 1)
    assert job.error is not None
    assert job.error.code == "dependency_unavailable"
    assert ("read-only" if number == errno.EROFS else "full") in job.error.detail


def test_disk_that_is_cleared_soon_costs_an_attempt_only(installation: Installation) -> None:
    installation.worker()
    job_id = installation.submit(
        "filters", errno=errno.ENOSPC, until=1, ballast=160 * MIB, attempts=True
    )
    installation.wait((installation.home / "looked").exists)
    (installation.home / "ballast").unlink()
    job = installation.finish(job_id)
    assert (job.state, job.attempt) == ("succeeded", 2), job.error


def test_redis_that_does_not_answer_costs_an_attempt_only(installation: Installation) -> None:
    installation.worker()
    job = installation.finish(installation.submit("filters", redis=True, attempts=True))
    assert (job.state, job.attempt) == ("succeeded", 2), job.error


@pytest.mark.parametrize(
    ("kind", "setting"), [("training", "job_max_hours"), ("activations", "picture_max_hours")]
)
def test_job_that_runs_too_long_fails(
    installation: Installation, kind: JobKind, setting: str
) -> None:
    installation.worker(**{setting: 2 / 3600})
    job = installation.finish(installation.submit(kind, steps=1000, pause=0.05))
    assert job.state == "failed"
    assert job.error is not None
    assert f"OPSIN_{setting.upper()}" in job.error.detail
    assert job.artifacts


def take_over(installation: Installation, child: psutil.Process) -> bool:
    """Suspend the child and give its job to another worker; False if it was just writing."""
    child.suspend()
    try:
        with writing(installation.engine) as session:
            session.execute(update(JobRecord).values(worker_id="other", attempt=7))
    except Unavailable:
        child.resume()
        return False
    return True


def test_child_that_lost_its_lease_changes_nothing(installation: Installation) -> None:
    """A suspended child continues after another worker has taken its job."""
    installation.worker()
    job_id = installation.submit("training", steps=10_000, pause=0.05)
    installation.until(job_id, lambda job: len(job.metrics) > 2)
    (child,) = installation.children(job_id)
    installation.wait(lambda: take_over(installation, child))
    before = installation.jobs.history(job_id)
    child.resume()
    gone, _ = psutil.wait_procs([child], 60)
    assert gone
    after = installation.jobs.history(job_id)
    assert after.entries == before.entries
    assert (after.job.state, after.job.attempt) == ("running", 7)
    assert installation.files.work(job_id).exists()


IMPATIENT_CHILD = """
import sys
from workers.jobs import child
child._LOCK_SECONDS = 0.1
sys.exit(child.main(sys.argv[1:]))
"""


def test_a_job_whose_folder_a_frozen_process_has_waits_for_it(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `docker pause`: the attempts of the other worker must not use the job up."""

    def command(_module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", IMPATIENT_CHILD, *arguments]

    monkeypatch.setattr("workers.jobs.process.module_command", command)
    monkeypatch.setenv("OPSIN_HOME", str(installation.home))
    job_id, files = installation.submit("training", steps=1, pause=0), installation.files
    worker, leases, settings = new_worker_id(), installation.leases, installation.settings
    slot = Slot("training", SlotContext(worker, leases, files, settings, Event(), KINDS))
    with files.locked(job_id, 0):
        assert slot._run_next()
        assert not slot._run_next(), "nobody tries again at once"
    with reading(installation.engine) as session:
        record = session.get_one(JobRecord, job_id)
        assert (record.state, record.attempt, record.stalled) == ("running", 1, 0)
    assert leases.release_all(worker) == 1  # in place of the pause
    assert slot._run_next()
    assert installation.jobs.get(job_id).state == "succeeded"


def test_a_trace_tells_of_every_attempt_even_of_one_that_was_killed(
    installation: Installation,
) -> None:
    request = TraceContext("a" * 32, "b" * 16, "01")
    set_origin(Origin("the-request", request))
    with collecting() as collector:
        try:
            job_id = installation.submit("training", steps=40, pause=0.1)
        finally:
            set_origin(NO_ORIGIN)
        worker = installation.worker(otlp_endpoint=collector.url)
        installation.until(job_id, lambda job: job.metrics)
        for child in installation.children(job_id):
            child.kill()
        assert installation.finish(job_id).state == "succeeded"
        worker.terminate()  # sends what it has
        worker.wait(60)
        spans = collector.trace(request.trace_id)
    attempts = sorted(
        (span for span in spans if span.name == "job training"), key=lambda span: span.began
    )
    assert [span.failed for span in attempts] == [True, False]
    assert [span.attributes["opsin.job.attempt"] for span in attempts] == [1, 2]
    assert {span.parent_id for span in attempts} == {request.span_id}
    assert len([span for span in spans if span.name == "queue"]) == 1
    phases = {span.name for span in spans if span.parent_id == attempts[1].span_id}
    assert phases == {"loading"}
    lines = [
        json.loads(line)
        for line in (installation.home / "worker.log").read_text().splitlines()
        if line.startswith("{")
    ]
    about = [line for line in lines if line.get("job") == job_id]
    assert {line["event"] for line in about} >= {"child_started", "child_lost", "job_ended"}
    for line in about:
        assert (line["request_id"], line["trace_id"]) == ("the-request", request.trace_id), line


def test_a_slot_survives_a_disk_that_fails_for_a_moment(installation: Installation) -> None:
    marker = installation.home / FILE
    installation.worker()
    installation.finish(installation.submit("training", steps=1, pause=0))
    marker.rename(aside := installation.home / "aside")
    marker.mkdir()  # reading it fails, though it is not missing
    waiting = installation.submit("training", steps=1, pause=0)
    log = installation.home / "worker.log"
    installation.wait(lambda: "home_missing" in log.read_text())
    assert installation.jobs.get(waiting).state == "queued"
    marker.rmdir()
    aside.rename(marker)
    assert installation.finish(waiting).state == "succeeded"


def test_a_job_waits_while_there_is_no_room_for_temporary_files(
    installation: Installation, tmp_path: Path
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    installation.worker(str(folder))
    installation.finish(installation.submit("training", steps=1, pause=0))
    folder.rename(aside := tmp_path / "aside")
    waiting = installation.submit("training", steps=1, pause=0)
    log = installation.home / "worker.log"
    installation.wait(lambda: "slot_interrupted" in log.read_text())
    assert installation.jobs.get(waiting).finished_at is None
    aside.rename(folder)
    began = time.monotonic()
    assert installation.finish(waiting).state == "succeeded"
    assert time.monotonic() < began + LEASE_SECONDS / 2  # it held none


def test_no_job_ends_while_the_home_is_missing(installation: Installation) -> None:
    """One that runs while its disk is unmounted, and one that is not begun meanwhile."""
    marker = installation.home / FILE
    installation.worker()
    running = installation.submit("training", steps=100, pause=0.05)
    installation.until(running, lambda job: job.metrics)
    marker.rename(aside := installation.home / "aside")
    installation.wait(lambda: not installation.leases.holders())
    waiting = installation.submit("training", steps=1, pause=0)
    time.sleep(2)
    assert not installation.leases.holders()
    assert installation.jobs.get(running).finished_at is None
    assert installation.jobs.get(waiting).state == "queued"
    aside.rename(marker)
    for job_id in (running, waiting):
        job = installation.finish(job_id)
        assert job.state == "succeeded", job.error
