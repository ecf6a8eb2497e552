"""An installation with real job workers, child processes, Valkey and SQLite."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import psutil

from contracts.jobs import FINISHED, WORK_QUEUES, Job, JobKind
from contracts.queue.celery import celery_app
from contracts.queue.redis_keys import TASK_NOTIFY
from contracts.settings import Settings
from contracts.tracing.origin import current_origin
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs, new_job_id
from database.jobs.leases import Leases
from tests.database.jobs.listing import listed
from tests.tables import make_home
from tests.valkey import RealValkey

ROOT = Path(__file__).resolve().parents[3]


class Installation:
    """One installation: its database, its Valkey and the job workers that a test starts."""

    def __init__(self, home: Path, valkey: RealValkey) -> None:
        self.valkey = valkey
        self.home = home
        self.settings = Settings(home=home, redis_url=valkey.url, shutdown_seconds=2)
        make_home(self.settings)
        self.engine = open_engine(self.settings.database)
        self.files = JobFiles(self.settings.jobs_home)
        self.jobs = Jobs(self.engine, self.now, self.files)
        self.leases = Leases(self.engine, self.now)
        self.celery = celery_app(valkey.url)
        self.workers: list[subprocess.Popen[bytes]] = []

    def now(self) -> datetime:
        return datetime.now(UTC)

    def worker(self, temporary: str = gettempdir(), **settings: object) -> subprocess.Popen[bytes]:
        """Start a job worker with that folder for temporary files."""
        variables = {f"OPSIN_{name.upper()}": str(value) for name, value in settings.items()}
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "OPSIN_HOME": str(self.home),
            "OPSIN_REDIS_URL": self.valkey.url,
            "OPSIN_SHUTDOWN_SECONDS": "2",
            "OPSIN_JOB_NICENESS": "0",
            "TMPDIR": temporary,
        }
        with (self.home / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "tests/workers/jobs/job_worker.py"],
                cwd=ROOT,
                env=environment | variables,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        self.workers.append(process)
        return process

    def submit(self, kind: JobKind, inputs: dict[str, bytes] | None = None, **request: Any) -> str:
        """Submit a job like `service.jobs.queue`: files, row, notification."""
        job_id = new_job_id()
        self.files.store_inputs(job_id, inputs or {})
        self.jobs.create(kind, request, limit=50, job_id=job_id, origin=current_origin())
        queue = WORK_QUEUES[kind]
        with suppress(Exception):  # the worker also polls, in case Valkey is down
            self.celery.send_task(TASK_NOTIFY, args=[queue], queue=queue)
        return job_id

    def until(self, job_id: str, check: Callable[[Job], object], seconds: float = 60) -> Job:
        deadline = time.monotonic() + seconds
        while True:
            job = self.jobs.get(job_id)
            if check(job):
                return job
            assert time.monotonic() < deadline, (job, (self.home / "worker.log").read_text())
            time.sleep(0.02)

    def wait(self, check: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < deadline, (self.home / "worker.log").read_text()
            time.sleep(0.02)

    def finish(self, job_id: str, seconds: float = 60) -> Job:
        return self.until(job_id, lambda job: job.state in FINISHED, seconds)

    def children(self, job_id: str) -> list[psutil.Process]:
        processes = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if job_id in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
        return processes

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait(60)
        for job in listed(self.jobs).items:
            for child in self.children(job.id):
                child.kill()  # suspended by a test that failed
        self.celery.close()
        self.engine.dispose()
