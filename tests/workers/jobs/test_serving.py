"""A job that promotes waits for the workers: with a real Valkey, and heartbeats as workers send."""

from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest
import redis

from contracts.jobs import Progress
from contracts.queue.heartbeat import HeldModel
from contracts.settings import Settings
from contracts.work import WorkStoppedError
from models.store.store import Store
from tests.models.drafts import DRAFT, write_files
from tests.valkey import RealValkey
from workers.inference.heartbeat import HeartbeatPublisher
from workers.jobs import serving
from workers.jobs.serving import wait_until_served

LOADED = HeldModel(name="pets", version=1, state="ready", operations=("classify",))
LOADING = HeldModel(name="pets", version=1, state="loading")


class RecordingWork:
    """Only what the wait uses of a `Work`."""

    def __init__(self, stopped: str | None = None) -> None:
        self.reports: list[Progress] = []
        self.stopped = stopped

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)
        if self.stopped is not None:
            raise WorkStoppedError(self.stopped)


@pytest.fixture
def settings(tmp_path: Path, valkey: RealValkey) -> Settings:
    store = Store(tmp_path / "store")
    for _ in range(2):
        with store.staging() as folder:
            write_files(folder)
            store.publish("pets", folder, DRAFT)
    store.promote("pets", 1)
    return Settings(_env_file=None, home=tmp_path, redis_url=valkey.url)


class Workers:
    """Inference workers, as far as their heartbeats show."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._started: list[tuple[HeartbeatPublisher, redis.Redis]] = []

    def start(self, name: str, *models: HeldModel) -> HeartbeatPublisher:
        client = redis.Redis.from_url(self._url)
        publisher = HeartbeatPublisher(client, name)
        publisher.start()
        publisher.report(*models)
        self._started.append((publisher, client))
        return publisher

    def stop(self) -> None:
        for publisher, client in self._started:
            publisher.stop()
            client.close()


@pytest.fixture
def workers(valkey: RealValkey) -> Iterator[Workers]:
    workers = Workers(valkey.url)
    yield workers
    workers.stop()


def wait(settings: Settings, work: RecordingWork, seconds: float = 30) -> serving.Serving:
    found = wait_until_served(work, settings, "pets", 1, seconds=seconds)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_waits_for_every_worker(settings: Settings, workers: Workers) -> None:
    first = workers.start("w1", LOADING)
    second = workers.start("w2", HeldModel(name="vgg16", version=1, state="loading"))
    Timer(0.3, first.report, [LOADED]).start()
    late = Timer(1.0, second.report, [LOADING, LOADED])
    late.start()
    work = RecordingWork()
    found = wait(settings, work)
    assert not late.is_alive()
    assert (found.workers, found.ready, found.reason) == (2, 2, None)
    assert {report.phase for report in work.reports} == {"load"}


def test_says_which_failed(settings: Settings, workers: Workers) -> None:
    workers.start("w1", LOADED)
    workers.start("w2", LOADING.model_copy(update={"state": "unavailable", "reason": "Memory."}))
    found = wait(settings, RecordingWork())
    assert (found.workers, found.ready, found.reason) == (2, 1, "Memory.")


def test_job_workers_do_not_count(
    settings: Settings, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_NO_WORKER_SECONDS", 0.3)
    with redis.Redis.from_url(valkey.url) as client:
        publisher = HeartbeatPublisher(client, "jobs", {"training": 1})
        publisher.start()
        publisher.report(LOADED)
        found = wait(settings, RecordingWork())
        publisher.stop()
    assert (found.workers, found.ready) == (0, 0)
    assert "No inference worker" in (found.reason or "")


def test_wait_is_bounded(settings: Settings, workers: Workers) -> None:
    workers.start("w1", LOADING)
    found = wait(settings, RecordingWork(), seconds=0.5)
    assert (found.workers, found.ready) == (1, 0)
    assert found.reason == "It was not loaded within 0 seconds."


def test_queue_that_does_not_answer_is_waited_for(settings: Settings, valkey: RealValkey) -> None:
    valkey.kill()
    found = wait(settings, RecordingWork(), seconds=0.5)
    valkey.start()
    assert found.ready == 0
    assert found.reason is not None


def test_newer_promotion_ends_the_wait(settings: Settings, workers: Workers) -> None:
    workers.start("w1", LOADING)
    Store(settings.store_home).promote("pets", 2)
    assert wait(settings, RecordingWork()).reason == "Another version was promoted meanwhile."


def test_cancelled_job_keeps_its_result(settings: Settings, workers: Workers) -> None:
    workers.start("w1", LOADING)
    assert "cancelled" in (wait(settings, RecordingWork("cancelled")).reason or "")
    with pytest.raises(WorkStoppedError):
        wait(settings, RecordingWork("shutdown"))


def test_without_a_queue_nothing_is_waited_for(settings: Settings) -> None:
    local = settings.model_copy(update={"redis_url": None})
    assert wait_until_served(RecordingWork(), local, "pets", 1) is None  # type: ignore[arg-type]
