"""Long jobs end to end: a real job worker, real children, a real Valkey and SQLite; real kills."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import update

from contracts.errors import Unavailable
from contracts.jobs import FINISHED, WORK_QUEUES, Job, JobKind
from contracts.queue.celery import celery_app
from contracts.queue.redis_keys import TASK_RING
from contracts.settings import Settings
from database.engine import open_engine, writing
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs, new_job_id
from database.jobs.leases import MOST_CRASHED, MOST_STALLED, Leases
from database.migrations import upgrade
from database.tables import JobRecord
from tests.valkey import RealValkey

ROOT = Path(__file__).resolve().parents[2]


class House:
    """One installation: its database, its Valkey and the job workers that a test starts."""

    def __init__(self, home: Path, valkey: RealValkey) -> None:
        self.valkey = valkey
        self.home = home
        self.settings = Settings(home=home, redis_url=valkey.url, shutdown_seconds=2)
        upgrade(self.settings.database)
        self.engine = open_engine(self.settings.database)
        self.files = JobFiles(self.settings.jobs_home)
        self.jobs = Jobs(self.engine, self.now, self.files)
        self.leases = Leases(self.engine, self.now)
        self.celery = celery_app(valkey.url)
        self.workers: list[subprocess.Popen[bytes]] = []

    def now(self) -> datetime:
        return datetime.now(UTC)

    def worker(self, **settings: object) -> subprocess.Popen[bytes]:
        given = {f"OPSIN_{name.upper()}": str(value) for name, value in settings.items()}
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OPSIN_HOME": str(self.home),
            "OPSIN_REDIS_URL": self.valkey.url,
            "OPSIN_SHUTDOWN_SECONDS": "2",
            "OPSIN_JOB_NICENESS": "0",
        }
        with (self.home / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "tests/workers/work_worker.py"],
                cwd=ROOT,
                env=environment | given,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.workers.append(process)
        return process

    def submit(self, kind: JobKind, inputs: dict[str, bytes] | None = None, **request: Any) -> str:
        """As `service.jobs.queue` does: files, row, ring."""
        job_id = new_job_id()
        self.files.store_inputs(job_id, inputs or {})
        self.jobs.create(kind, request, limit=50, job_id=job_id)
        queue = WORK_QUEUES[kind]
        with suppress(Exception):  # while Valkey is away the worker looks by itself
            self.celery.send_task(TASK_RING, args=[queue], queue=queue)
        return job_id

    def until(self, job_id: str, check: Callable[[Job], object], seconds: float = 60) -> Job:
        deadline = time.monotonic() + seconds
        while True:
            job = self.jobs.get(job_id)
            if check(job):
                return job
            assert time.monotonic() < deadline, (job, (self.home / "worker.log").read_text())
            time.sleep(0.02)

    def wait(self, check: Callable[[], object], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < deadline, (self.home / "worker.log").read_text()
            time.sleep(0.02)

    def ended(self, job_id: str, seconds: float = 60) -> Job:
        return self.until(job_id, lambda job: job.state in FINISHED, seconds)

    def children(self, job_id: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if job_id in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait(10)
        for job in self.jobs.list().items:
            for child in self.children(job.id):
                child.kill()  # one that a failed test left frozen
        self.celery.close()
        self.engine.dispose()


@pytest.fixture
def house(tmp_path: Path, valkey: RealValkey) -> Iterator[House]:
    house = House(tmp_path, valkey)
    yield house
    house.close()


def test_a_job_from_its_input_to_its_result(house: House) -> None:
    house.worker(job_threads=3, job_niceness=5)
    echo = house.submit("dream", {"image.bin": b"hello"})
    counted = house.submit("training", steps=3, pause=0.1)
    job = house.ended(counted)
    assert job.state == "succeeded", job.error
    assert job.result == {"seen": [0, 1, 2], "attempt": 1}
    assert job.metrics == [{"epoch": n, "phase": "head", "loss": None} for n in (1, 2, 3)]
    assert [(a.name, a.media_type, a.size) for a in job.artifacts] == [
        ("preview.png", "image/png", 6)
    ]
    # Both queues at once, each with its place; what is done leaves only what it made.
    job = house.ended(echo)
    assert job.result == {"text": "hello", "nice": 5, "first_to_go": "1000", "threads": "3"}
    house.wait(
        lambda: not house.files.work(counted).exists() and not house.files.work(echo).exists()
    )
    left = {
        str(p.relative_to(house.settings.jobs_home)) for p in house.settings.jobs_home.rglob("*")
    }
    assert left == {counted, f"{counted}/artifacts", f"{counted}/artifacts/preview.png"}
    names = [(entry.told, entry.name) for entry in house.jobs.history(counted).entries]
    assert names == [(1, "metrics"), (3, "metrics"), (5, "metrics"), (6, "artifact")]


def test_an_enrollment_waits_for_no_pictures_and_stands_back_little(house: House) -> None:
    """Somebody sits before the camera; a dream may take its time."""
    house.worker(job_niceness=19)
    long = house.submit("dataset_import", steps=1000, pause=0.1)
    house.until(long, lambda job: job.state == "running")
    job = house.ended(house.submit("enrollment", {"image.bin": b"face"}))
    assert job.result is not None, job.error
    assert job.result["nice"] == 5
    assert house.jobs.get(long).state == "running"
    house.jobs.cancel(long)
    house.ended(long)


def test_failures_are_told_safely(house: House) -> None:
    house.worker()
    rude = house.submit("filters")
    polite = house.submit("filters", politely=True)
    absent = house.submit("style_transfer")
    error = house.ended(rude).error
    assert error is not None
    assert error.code == "internal_error"
    assert "secret" not in error.detail
    error = house.ended(polite).error
    assert error is not None
    assert (error.code, error.detail) == (
        "validation_error",
        "There is no such layer. Ask for another.",
    )
    error = house.ended(absent).error
    assert error is not None
    assert "cannot do 'style_transfer'" in error.detail
    house.wait(lambda: not list(house.settings.jobs_home.iterdir()))


@pytest.mark.slow
def test_a_cancelled_job_stops_within_a_step_and_keeps_what_it_made(house: House) -> None:
    house.worker()
    job_id = house.submit("training", steps=1000, pause=0.05)
    waiting = house.submit("training", steps=1, pause=0)
    house.until(job_id, lambda job: len(job.metrics) > 1)
    assert house.jobs.get(waiting).queue_position == 1
    house.jobs.cancel(job_id)
    asked = time.monotonic()
    job = house.ended(job_id)
    assert time.monotonic() - asked < 2
    assert job.state == "cancelled"
    assert job.artifacts
    assert house.ended(waiting).state == "succeeded"


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_child_killed_again_and_again_still_comes_to_its_end(house: House, kills: int) -> None:
    """More kills than there may be attempts without progress."""
    house.worker()
    job_id = house.submit("training", steps=kills + 2, pause=0.05)
    for kill in range(1, kills + 1):
        house.until(job_id, lambda job, kill=kill: len(job.metrics) >= kill)
        for child in house.children(job_id):
            child.kill()
    job = house.ended(job_id)
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert job.result["seen"] == list(range(kills + 2))
    assert [row["epoch"] for row in job.metrics] == list(range(1, kills + 3))
    assert job.attempt > 1
    house.wait(lambda: not house.files.work(job_id).exists())


@pytest.mark.slow
def test_a_child_that_dies_without_progress_is_given_up(house: House) -> None:
    house.worker()
    job_id = house.submit("heatmap")

    def swept(job: Job) -> bool:
        house.leases.sweep(30)
        return job.state in FINISHED

    job = house.until(job_id, swept, 90)
    assert (job.state, job.attempt) == ("failed", MOST_STALLED)
    assert job.error is not None
    assert "without getting further" in job.error.detail


def test_a_child_that_crashes_without_progress_is_given_up_soon(house: House) -> None:
    house.worker()
    job_id = house.submit("heatmap", {"image.bin": b"1"}, signal=signal.SIGFPE)
    job = house.ended(job_id)
    assert (job.state, job.attempt) == ("failed", MOST_CRASHED)
    assert job.error is not None
    assert "crashed" in job.error.detail
    house.wait(lambda: not house.files.work(job_id).exists())


def test_a_killed_worker_takes_its_child_along_and_the_next_one_goes_on(house: House) -> None:
    first = house.worker()
    job_id = house.submit("training", steps=40, pause=0.05)
    house.until(job_id, lambda job: len(job.metrics) > 2)
    (child,) = house.children(job_id)
    first.kill()
    first.wait(10)
    gone, _ = psutil.wait_procs([child], 5)
    assert gone
    house.worker()
    job = house.ended(job_id, 30)  # long before the lease would have run out
    assert (job.state, job.attempt) == ("succeeded", 2)
    assert job.result is not None
    assert job.result["seen"] == list(range(40))


def test_a_worker_told_to_stop_gives_its_job_back(house: House) -> None:
    first = house.worker()
    job_id = house.submit("training", steps=60, pause=0.05)
    house.until(job_id, lambda job: len(job.metrics) > 2)
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    assert not house.children(job_id)
    assert house.jobs.get(job_id).state == "running"
    # Anybody may have it at once.
    assert house.leases.claim_next("training", "w2", 60) is not None


@pytest.mark.slow
def test_a_restarted_valkey_disturbs_nobody(house: House) -> None:
    house.worker()
    job_id = house.submit("training", steps=60, pause=0.05)
    house.until(job_id, lambda job: len(job.metrics) > 2)
    house.valkey.kill()
    later = house.submit("training", steps=1, pause=0)
    house.valkey.start()
    job = house.ended(job_id)
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert house.ended(later, 20).state == "succeeded"


@pytest.mark.slow
def test_work_that_runs_too_long_fails(house: House) -> None:
    house.worker(job_max_hours=2 / 3600)
    job = house.ended(house.submit("training", steps=1000, pause=0.05))
    assert job.state == "failed"
    assert job.error is not None
    assert "OPSIN_JOB_MAX_HOURS" in job.error.detail
    assert job.artifacts


def taken_over(house: House, child: psutil.Process) -> bool:
    """Freeze the child and give its job to another; False if it was frozen as it wrote."""
    child.suspend()
    try:
        with writing(house.engine) as session:
            session.execute(update(JobRecord).values(worker_id="other", attempt=7))
    except Unavailable:
        child.resume()
        return False
    return True


def test_a_lost_lease_changes_nothing_any_more(house: House) -> None:
    """A frozen child comes back after another worker took its job."""
    house.worker()
    job_id = house.submit("training", steps=100, pause=0.05)
    house.until(job_id, lambda job: len(job.metrics) > 2)
    (child,) = house.children(job_id)
    house.wait(lambda: taken_over(house, child))
    before = house.jobs.history(job_id)
    child.resume()
    gone, _ = psutil.wait_procs([child], 10)
    assert gone
    after = house.jobs.history(job_id)
    assert after.entries == before.entries
    assert (after.job.state, after.job.attempt) == ("running", 7)
    assert house.files.work(job_id).exists()
