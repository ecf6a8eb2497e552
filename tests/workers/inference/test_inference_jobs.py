"""Jobs of images on a real database and a real Valkey; the network is a stand-in."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis

from contracts.jobs import Job
from contracts.queue import redis_keys
from contracts.queue.messages import Item, bundled
from database.engine import open_engine
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs, new_job_id
from database.jobs.leases import Leases
from database.migrations import upgrade
from tests.valkey import RealValkey
from workers.inference.inference_jobs import JobRunner
from workers.inference.loaded_models import Held

PIXELS = np.full((4, 5, 3), 7, np.uint8)
RAW = Item(bytes(16), 0, 0, "", PIXELS).pack()


class Network:
    """Says of each picture how bright it is."""

    version = 1
    operations = ("embed",)
    labels: tuple[Any, ...] = ()
    manifest = SimpleNamespace(input_size=(4, 5))

    def run(self, operation: str, pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), -1).mean(axis=1, keepdims=True, dtype=np.float32)


class Desk:
    """A table of jobs, and a worker that holds the network."""

    def __init__(self, home: Path, valkey: RealValkey) -> None:
        url = f"sqlite:///{home / 'opsin.db'}"
        upgrade(url)
        self.engine = open_engine(url)
        self.files = JobFiles(home / "jobs")
        self.client = redis.Redis.from_url(valkey.url)
        self.jobs = Jobs(self.engine, lambda: datetime.now(UTC), self.files)
        held = Held()
        held.put("bright", Network())  # type: ignore[arg-type]
        leases = Leases(self.engine, lambda: datetime.now(UTC))
        self.run = JobRunner(leases, self.client, self.files, held, "me", 4, lambda: None)

    def asked(self, *, filed: bool, pushed: bool) -> str:
        """A job of two images, which lie where they are told to."""
        job_id = new_job_id()
        item = {"name": None, "width": 5, "height": 4, "error": None}
        request = {"model": "bright", "version": 1, "top_k": 0, "items": [item, item]}
        if filed:
            self.files.store_inputs(job_id, {redis_keys.JOB_INPUT: bundled([RAW, RAW])})
        if pushed:
            self.client.rpush(redis_keys.job_input(job_id), RAW, RAW)
        self.jobs.create("embed", request, limit=10, idempotency=None, job_id=job_id)
        return job_id

    def ended(self, job_id: str) -> Job:
        self.run(job_id)
        return self.jobs.get(job_id)


@pytest.fixture
def desk(tmp_path: Path, valkey: RealValkey) -> Iterator[Desk]:
    desk = Desk(tmp_path, valkey)
    yield desk
    desk.client.close()
    desk.engine.dispose()


@pytest.mark.parametrize(("filed", "pushed"), [(True, True), (True, False), (False, True)])
def test_its_images_come_from_wherever_they_are(desk: Desk, filed: bool, pushed: bool) -> None:
    job_id = desk.asked(filed=filed, pushed=pushed)
    job = desk.ended(job_id)
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert [one["embedding"] for one in job.result["results"]] == [[7.0], [7.0]]
    assert not desk.files.work(job_id).exists()
    assert not desk.client.exists(redis_keys.job_input(job_id))


def test_images_that_are_nowhere_fail_it_and_say_so(desk: Desk) -> None:
    job = desk.ended(desk.asked(filed=False, pushed=False))
    assert job.state == "failed"
    assert job.error is not None
    assert "Send them again" in job.error.detail


def test_a_file_cut_off_counts_as_none(desk: Desk) -> None:
    job_id = desk.asked(filed=True, pushed=False)
    file = desk.files.work(job_id) / redis_keys.JOB_INPUT
    file.write_bytes(file.read_bytes()[:-1])
    assert desk.ended(job_id).state == "failed"
