"""Jobs that do not fit into memory together, with real job workers and their processes."""

import signal
import time

import pytest

from contracts.jobs import WAITING_FOR_MEMORY, Job, JobKind
from contracts.settings import MIB
from database.engine import reading
from database.tables import JobRecord
from models.memory.ledger import MemoryLedger
from tests.workers.jobs.installation import Installation

GIB = 1024 * MIB
LIMIT_MB = 100 * 1024


def is_waiting(job: Job) -> bool:
    return job.progress.phase == WAITING_FOR_MEMORY


def is_at_work(job: Job) -> bool:
    return len(job.metrics) > 1


def count(installation: Installation, kind: JobKind, gib: int, steps: int = 5) -> str:
    return installation.submit(kind, steps=steps, pause=0.1, memory=gib * GIB)


def ledger(installation: Installation) -> MemoryLedger:
    return MemoryLedger(installation.settings.memory_home, LIMIT_MB * MIB)


def never() -> None:
    raise AssertionError("there was no room")


def test_jobs_of_two_workers_that_do_not_fit_together_run_one_after_the_other(
    installation: Installation,
) -> None:
    installation.worker(training_memory_mb=LIMIT_MB, picture_concurrency=0)
    first = count(installation, "training", 60, steps=10_000)
    installation.until(first, is_at_work)
    installation.worker(training_memory_mb=LIMIT_MB, training_concurrency=0)
    second = count(installation, "activations", 60)
    waiting = installation.until(second, is_waiting)
    assert (waiting.state, waiting.metrics, waiting.progress.eta_seconds) == ("running", [], None)
    installation.jobs.cancel(first)
    ended = [installation.finish(job_id) for job_id in (first, second)]
    assert [job.state for job in ended] == ["cancelled", "succeeded"]
    first_end, second_end = (job.finished_at for job in ended)
    assert first_end is not None
    assert second_end is not None
    assert (second_end - first_end).total_seconds() >= 0.5  # its five steps


def test_a_job_that_fits_beside_another_does_not_wait(installation: Installation) -> None:
    installation.worker(training_memory_mb=LIMIT_MB)
    long = count(installation, "training", 60, steps=10_000)
    installation.until(long, is_at_work)
    small = installation.finish(count(installation, "activations", 30))
    assert small.state == "succeeded"
    assert installation.jobs.get(long).state == "running"
    installation.jobs.cancel(long)
    installation.finish(long)


def test_a_killed_job_gives_its_memory_to_the_next(installation: Installation) -> None:
    installation.worker(training_memory_mb=LIMIT_MB)
    first = count(installation, "training", 60, steps=10_000)
    installation.until(first, is_at_work)
    second = count(installation, "activations", 60)
    installation.until(second, is_waiting)
    for child in installation.children(first):
        child.kill()
    assert installation.finish(second).state == "succeeded"
    installation.until(first, lambda job: job.attempt == 2 and is_at_work(job))
    installation.jobs.cancel(first)
    installation.finish(first)


def test_a_training_gives_back_what_it_does_not_need(installation: Installation) -> None:
    """After the first epoch of its last phase, of which it has not had a hundredth."""
    installation.worker(training_memory_mb=LIMIT_MB)
    options = {"steps": 10_000, "pause": 0.1, "memory": 60 * GIB}
    fine_tuning = installation.submit("training", **options, strategy="fine_tuning")
    installation.until(fine_tuning, is_at_work)
    waits = count(installation, "activations", 60)
    installation.until(waits, is_waiting)
    time.sleep(1)  # epochs of another phase than the last change nothing
    assert is_waiting(installation.jobs.get(waits))
    installation.jobs.cancel(fine_tuning)
    assert installation.finish(waits).state == "succeeded"
    training = installation.submit("training", **options, strategy="feature_extraction")
    installation.until(training, is_at_work)
    assert installation.finish(count(installation, "activations", 60)).state == "succeeded"
    assert installation.jobs.get(training).state == "running"
    installation.jobs.cancel(training)
    installation.finish(training)


def test_a_small_job_does_not_wait_for_a_training_that_has_reserved_everything(
    installation: Installation,
) -> None:
    installation.worker(training_memory_mb=LIMIT_MB)
    training = count(installation, "training", 100, steps=10_000)
    installation.until(training, is_at_work)
    job = installation.finish(count(installation, "dataset_import", 1))
    assert job.state == "succeeded"
    assert installation.jobs.get(training).state == "running"
    installation.jobs.cancel(training)
    installation.finish(training)


def test_a_job_that_waits_is_cancelled_at_once(installation: Installation) -> None:
    installation.worker(training_memory_mb=LIMIT_MB)
    with ledger(installation).reserve(60 * GIB, never):
        job_id = count(installation, "training", 60)
        installation.until(job_id, is_waiting)
        installation.jobs.cancel(job_id)
        cancelled_at = time.monotonic()
        assert installation.finish(job_id).state == "cancelled"
        assert time.monotonic() - cancelled_at < 20


def test_a_stopped_worker_gives_a_job_that_waits_back(installation: Installation) -> None:
    worker = installation.worker(training_memory_mb=LIMIT_MB)
    with ledger(installation).reserve(60 * GIB, never):
        job_id = count(installation, "training", 60)
        installation.until(job_id, is_waiting)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
    lease = installation.leases.claim_next("training", "w2", 60)
    assert lease is not None
    assert lease.job_id == job_id


@pytest.mark.slow
def test_a_wait_is_no_running_time_and_keeps_the_lease(installation: Installation) -> None:
    installation.worker(training_memory_mb=LIMIT_MB, job_max_hours=3 / 3600)

    def lease_until() -> float:
        with reading(installation.engine) as session:
            record = session.get(JobRecord, job_id)
            assert record is not None
            assert record.lease_until is not None
            return record.lease_until.timestamp()

    with ledger(installation).reserve(60 * GIB, never):
        job_id = count(installation, "training", 60)
        installation.until(job_id, is_waiting)
        before = lease_until()
        time.sleep(12)  # a heartbeat, and four times what it may run
        assert lease_until() > before + 5
    job = installation.finish(job_id)
    assert (job.state, job.attempt) == ("succeeded", 1), job.error


def test_a_job_that_runs_too_long_after_a_wait_fails(installation: Installation) -> None:
    installation.worker(training_memory_mb=LIMIT_MB, job_max_hours=2 / 3600)
    with ledger(installation).reserve(60 * GIB, never):
        job_id = count(installation, "training", 60, steps=1000)
        installation.until(job_id, is_waiting)
    job = installation.finish(job_id)
    assert job.error is not None
    assert "OPSIN_JOB_MAX_HOURS" in job.error.detail
