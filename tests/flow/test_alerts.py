"""Each alert of `deploy/prometheus/` fires in a real Prometheus when a real service has its cause.

In the rules, minutes are seconds and hours are minutes. `tests/deploy/test_alerts.py` checks the
rules as they are, with series that are made up.
"""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import yaml
from sqlalchemy import Engine, text, update

from contracts.errors import InternalError
from contracts.metrics.process import process_reader
from contracts.metrics.publisher import MetricsPublisher
from contracts.metrics.registry import Metrics
from database.clock import DatabaseClock
from database.engine import open_engine, writing
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from database.tables import JobRecord
from models.store.manifest import MANIFEST
from models.store.store import Store
from tests.flow.conftest import Networks
from tests.flow.installation import Installation
from tests.flow.prometheus import RULES, Prometheus, scraping
from tests.flow.trainings import (
    color_archive,
    start_process,
    submit_training,
    training_installation,
    upload_dataset,
)
from tests.images import encoded, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ALERTS = {one["alert"] for one in yaml.safe_load(Path(RULES[1]).read_text())["groups"][0]["rules"]}
SECONDS = 150.0  # until an alert has fired; a minute of its rule's windows has to pass


def hurried(folder: Path) -> list[str]:
    """The rules, sixty times as fast."""
    paths = []
    for path in map(Path, RULES):
        content = re.sub(
            r"(\[|for: |offset )(\d+)([mh])",
            lambda found: f"{found[1]}{found[2]}{ {'m': 's', 'h': 'm'}[found[3]] }",
            path.read_text(),
        )
        (folder / path.name).write_text(content)
        paths.append(str(folder / path.name))
    return paths


@pytest.fixture
def running(fetched_home: Path, networks: Networks, tmp_path: Path) -> Iterator[Installation]:
    env = {"OPSIN_QUEUE_LIMIT": "2"}
    store = networks("squeezenet")
    running = training_installation(tmp_path / "home", fetched_home / "weights", store, env)
    try:
        start_process(running, "api")
        running.run("worker", "worker --unkept")
        running.wait_until_ready()
        yield running
    finally:
        running.close()


class Causes:
    """Brings about what alerts are for, one after the other."""

    def __init__(self, running: Installation, prometheus: Prometheus) -> None:
        self.running = running
        self.fired: set[str] = set()
        self._prometheus = prometheus
        self._client = httpx.Client(base_url=running.url, timeout=60)
        self._image = encoded(scene(), "PNG")

    def firing(self) -> set[str]:
        found = self._prometheus.query('ALERTS{alertstate="firing"}')
        return {dict(labels)["alertname"] for labels in found}

    def until(self, *alerts: str, act: Callable[[], object] = lambda: None) -> None:
        """Do something again and again until alerts have fired."""
        wanted = {f"Opsin{alert}" for alert in alerts}
        deadline = time.monotonic() + SECONDS
        while not wanted <= (firing := self.firing()):
            assert time.monotonic() < deadline, (wanted, firing)
            act()
            time.sleep(0.2)
        self.fired |= wanted

    def classify(self, **headers: str) -> int:
        url = "/v1/classify?model=squeezenet"
        return self._client.post(url, content=self._image, headers=headers).status_code

    def classify_slowly(self) -> None:
        """The worker stands still for a moment."""
        worker = self.running.processes["worker"]
        worker.send_signal(signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(self.classify)
                time.sleep(1.5)
                worker.send_signal(signal.SIGCONT)
                assert answer.result() == 200
        finally:
            worker.send_signal(signal.SIGCONT)

    def overload(self) -> None:
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda _: self.classify(), range(36)))

    def damage_version(self) -> None:
        """A second version whose files cannot be loaded."""
        store = Store(self.running.home / "store")
        folder = store.path("squeezenet", 1)
        other = folder.with_name("2")
        shutil.copytree(folder, other)
        for path in other.rglob("*"):
            if path.is_file() and path.name != MANIFEST:
                path.write_bytes(b"damaged")
        manifest = json.loads((other / MANIFEST).read_text())
        (other / MANIFEST).write_text(json.dumps(manifest | {"version": 2}))
        store.promote("squeezenet", 2, "canary")

    def queue_training(self) -> str:
        dataset = upload_dataset(self._client, color_archive(6)).json()["id"]
        return str(submit_training(self._client, dataset)["id"])

    def close(self) -> None:
        self._client.close()


@contextmanager
def publishing(running: Installation, kind: str) -> Iterator[Metrics]:
    """Another process of the installation, as far as metrics go."""
    metrics = Metrics()
    with redis.Redis.from_url(running.valkey.url) as client:
        publisher = MetricsPublisher(client, metrics, f"test-{kind}", kind)
        publisher.start()
        try:
            yield metrics
        finally:
            publisher.stop()


def change_job(engine: Engine, job_id: str, **values: Any) -> None:
    with writing(engine) as session:
        session.execute(update(JobRecord).where(JobRecord.id == job_id).values(**values))


def fail_trainings(running: Installation, engine: Engine, causes: Causes) -> None:
    """A job worker whose jobs end with an internal error."""
    clock = DatabaseClock(engine)
    with publishing(running, "jobs") as metrics:
        jobs, leases = Jobs(engine, clock, None, metrics), Leases(engine, clock, metrics)

        def fail_one() -> None:
            job = jobs.create("training", {"model": "colors"}, limit=1000).job
            lease = leases.claim(job.id, "test-worker", 30)
            assert lease is not None
            assert leases.fail(lease, InternalError("on purpose"))

        causes.until("JobsFail", act=fail_one)


def end_waiting_calls(running: Installation) -> None:
    """Redis ends the connections that wait for images or changes; the others stay."""
    with redis.Redis.from_url(running.valkey.url) as client:
        for one in client.client_list():
            if "b" in one["flags"]:
                client.client_kill_filter(_id=one["id"])
    time.sleep(0.5)


def rename_jobs(engine: Engine, before: str, after: str) -> None:
    with writing(engine) as session:
        session.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))


def test_each_alert_fires_for_its_cause(
    running: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = running.url.removeprefix("http://")
    engine = open_engine(f"sqlite:///{running.home / 'opsin.db'}")
    with scraping(target, tmp_path / "prometheus", hurried(tmp_path)) as prometheus:
        causes = Causes(running, prometheus)
        for _ in range(50):
            assert causes.classify() == 200
        time.sleep(10)
        assert causes.firing() <= {"OpsinSlow"}, "nothing has happened yet"
        cause_those_of_requests(causes)
        cause_those_of_jobs(running, engine, causes)
        cause_those_of_parts(running, engine, causes, monkeypatch)
        # The last ones: nothing answers afterwards.
        running.kill("worker")
        causes.until("WorkerMissing", "NotReady")
        running.kill("api")
        causes.until("Down")
        causes.close()
    engine.dispose()
    assert causes.fired == ALERTS


def cause_those_of_requests(causes: Causes) -> None:
    causes.until("Slow", act=causes.classify_slowly)
    late = ("ErrorBudgetBurnsFast", "ErrorBudgetBurnsSlowly")
    causes.until(*late, act=lambda: causes.classify(**{"X-Timeout-Ms": "1"}))
    causes.until("QueueFull", act=causes.overload)


def cause_those_of_jobs(running: Installation, engine: Engine, causes: Causes) -> None:
    job_id = causes.queue_training()
    causes.until("NoJobWorker")
    now = datetime.now(UTC)
    change_job(engine, job_id, created_at=now - timedelta(hours=2))
    causes.until("JobsWaitLong")
    change_job(engine, job_id, state="running", lease_until=now - timedelta(hours=1), stalled=1)
    causes.until("JobStuck")
    fail_trainings(running, engine, causes)


def cause_those_of_parts(
    running: Installation, engine: Engine, causes: Causes, monkeypatch: pytest.MonkeyPatch
) -> None:
    causes.damage_version()
    causes.until("VersionFailsToLoad")
    with publishing(running, "api") as metrics:
        causes.until("ManyLockouts", act=lambda: metrics.inc("face_lockouts_total"))
        usage = shutil.disk_usage(running.home)._replace(total=100, used=97, free=3)
        monkeypatch.setattr("contracts.metrics.process.shutil.disk_usage", lambda _: usage)
        metrics.before_reading(process_reader(metrics, running.home))
        causes.until("DiskFull")
    causes.until("RedisErrors", act=partial(end_waiting_calls, running))
    rename_jobs(engine, "jobs", "elsewhere")
    try:
        causes.until("DatabaseErrors")
    finally:
        rename_jobs(engine, "elsewhere", "jobs")
