"""Inference jobs on a real database and a real Valkey; the network is a stand-in."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contracts.faces.consent import NewConsent, NewPolicy
from contracts.faces.subjects import NewSubject, SubjectChange
from contracts.inference.inference import Operation, Resize
from contracts.inference.manifest import Geometry, Provenance
from contracts.jobs import Job
from contracts.keys import Scope
from contracts.metrics.registry import Metrics
from contracts.queue import redis_keys
from contracts.queue.messages import Item, pack_bundle
from contracts.settings import Settings
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.installation import FILE, adopt
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs, new_job_id
from database.jobs.leases import Leases
from models.store.aliases import DamagedAliasesError
from tests.tables import make_tables
from workers.inference.batch_runner import OutOfMemoryError
from workers.inference.inference_jobs import InferenceJobRunner
from workers.inference.loaded_models import LoadedModels
from workers.jobs.consents import Consents

PIXELS = np.full((4, 5, 3), 7, np.uint8)
RAW = Item(bytes(16), 0, 0, "", PIXELS).pack()


class Network:
    """Embeds an image as its brightness."""

    operations = ("embed",)
    batch_sizes: tuple[int, ...] = (1, 2, 4)
    labels: tuple[Any, ...] = ()

    def __init__(self, version: int = 1, subjects: Sequence[str] = ()) -> None:
        self.version = version
        provenance = Provenance(spec={"subjects": list(subjects)})
        self.manifest = SimpleNamespace(
            model="bright",
            version=version,
            input_size=(4, 5),
            short_side=4,
            geometry="cover",
            network="squeezenet",
            provenance=provenance,
        )

    def run(self, operation: str, pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), -1).mean(axis=1, keepdims=True, dtype=np.float32)


class NoFasterQueues:
    has_ended = False

    def run_faster_queues(self, than: Operation = "explain") -> None:
        """Nothing waits."""

    def end_without_memory(self) -> None:
        self.has_ended = True


@dataclass
class NamedVersions:
    """The aliases of a model in a store; none unless the test says otherwise."""

    named: dict[str, int] = field(default_factory=dict)
    is_damaged: bool = False

    def aliases(self, _model: str) -> dict[str, int]:
        if self.is_damaged:
            raise DamagedAliasesError("damaged")
        return self.named


@dataclass
class OtherWorkers:
    """The versions that other workers have loaded, and the jobs that were sent to them."""

    loaded: set[int] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)

    def forward_job(self, job_id: str, _model: str, version: int | None = None) -> bool:
        if version in self.loaded:
            self.sent.append(job_id)
        return version in self.loaded


class JobWorker:
    """A job table, and a worker that has loaded the network."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(_env_file=None, home=home)
        url = f"sqlite:///{home / 'opsin.db'}"
        make_tables(url)
        self.engine = open_engine(url)
        adopt(self.engine, home)
        self.files = JobFiles(home / "jobs")
        self.jobs = Jobs(self.engine, lambda: datetime.now(UTC), self.files)
        self.models = models = LoadedModels()
        models.add("bright", Network())  # type: ignore[arg-type]
        self.leases = leases = Leases(self.engine, lambda: datetime.now(UTC))
        self.metrics = Metrics()
        self.queues = NoFasterQueues()
        self.store, self.others = NamedVersions(), OtherWorkers()
        self.runner = InferenceJobRunner(
            leases,
            self.files,
            models,
            "me",
            4,
            self.queues,
            Consents.of(self.settings, self.engine),
            self.store,
            self.others,
            self.metrics,
        )

    def create(self, *, stored: bool = True, other: int = 7) -> str:
        """A job of two images, the second one of another brightness."""
        job_id = new_job_id()
        item = {"name": None, "width": 5, "height": 4, "error": None}
        request = {"model": "bright", "version": 1, "top_k": 0, "items": [item, item]}
        second = Item(bytes(16), 0, 0, "", np.full_like(PIXELS, other)).pack()
        if stored:
            self.files.store_inputs(job_id, {redis_keys.JOB_INPUT: pack_bundle([RAW, second])})
        self.jobs.create("embed", request, limit=10, idempotency=None, job_id=job_id)
        return job_id

    def create_for(
        self,
        asked: str | None,
        scopes: tuple[Scope, ...],
        size: tuple[int, int] = (4, 5),
        **more: object,
    ) -> str:
        """A job for version 8 of `people`, which is not loaded any more."""
        job_id = new_job_id()
        item = {"name": None, "width": 5, "height": 4, "error": None}
        request = {"model": "people", "version": 8, "top_k": 0, "items": [item], "asked": asked}
        self.files.store_inputs(job_id, {redis_keys.JOB_INPUT: pack_bundle([RAW])})
        request |= {"input_size": size, **more}
        self.jobs.create("embed", request, limit=10, job_id=job_id, scopes=scopes)
        return job_id

    def run(self, job_id: str) -> Job:
        self.runner.run(job_id)
        return self.jobs.get(job_id)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[JobWorker]:
    worker = JobWorker(tmp_path)
    yield worker
    worker.engine.dispose()


def test_images_are_read_from_the_folder(worker: JobWorker) -> None:
    job_id = worker.create()
    job = worker.run(job_id)
    assert job.state == "succeeded", job.error
    assert job.result is not None
    assert [item["embedding"] for item in job.result["results"]] == [[7.0], [7.0]]
    assert not worker.files.work(job_id).exists()


def test_job_without_images_fails_with_a_reason(worker: JobWorker) -> None:
    job = worker.run(worker.create(stored=False))
    assert job.state == "failed"
    assert job.error is not None
    assert "Send them again" in job.error.detail


def test_job_without_images_is_tried_again_while_the_home_is_missing(worker: JobWorker) -> None:
    job_id = worker.create(stored=False)
    (worker.files.root.parent / FILE).unlink()
    assert worker.run(job_id).state == "running", "until its lease expires"


def test_truncated_file_counts_as_missing(worker: JobWorker) -> None:
    job_id = worker.create()
    file = worker.files.work(job_id) / redis_keys.JOB_INPUT
    file.write_bytes(file.read_bytes()[:-1])
    assert worker.run(job_id).state == "failed"


def test_a_large_result_leaves_room_on_the_disk(
    worker: JobWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room when the job was queued, as for a hundred others."""
    runner = replace(worker.runner, kept_bytes=1 << 60)
    worker.runner = runner
    assert worker.run(worker.create()).state == "succeeded", "a small one"
    monkeypatch.setattr("workers.inference.inference_jobs._LARGE_RESULT", 100)
    job = worker.run(worker.create())
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error.code, "no room" in job.error.detail) == ("dependency_unavailable", True)


def test_its_images_are_counted(worker: JobWorker) -> None:
    worker.runner.run(worker.create())
    counted = worker.metrics.read()["c"]
    labels = "\x1f".join(("bright", "1", "embed"))
    assert counted[f"computed_images_total\x1f{labels}\x1f"] == [2]
    assert counted[f"executions_total\x1f{labels}"] == [1]
    assert counted[f"batch_images\x1f{labels}"][-2:] == [1, 2]  # one batch; its images


def test_batches_of_a_slow_network_are_as_small_as_those_of_its_queue(worker: JobWorker) -> None:
    network = Network()
    network.batch_sizes = (1,)
    worker.models.add("bright", network)  # type: ignore[arg-type]
    assert worker.run(worker.create()).state == "succeeded"
    assert worker.metrics.read()["c"]["executions_total\x1fbright\x1f1\x1fembed"] == [2]


class Failing(Network):
    """Fails as `how` says, for the first image of the job alone or for every one."""

    def __init__(self, how: Exception | float, *, for_all: bool = False) -> None:
        super().__init__()
        self.how, self.for_all = how, for_all

    def run(self, operation: str, pixels: np.ndarray) -> np.ndarray:
        vectors = super().run(operation, pixels)
        failed = np.full(len(pixels), self.for_all) | (vectors[:, 0] == PIXELS[0, 0, 0])
        if failed.any():
            if isinstance(self.how, Exception):
                raise self.how
            vectors[failed] = self.how
        return vectors


OUT_OF_MEMORY = RuntimeError("Exception from src/inference: std::bad_alloc")


@pytest.mark.parametrize("how", [RuntimeError("bad"), np.nan])
def test_one_bad_image_does_not_fail_the_others(worker: JobWorker, how: Exception | float) -> None:
    worker.models.add("bright", Failing(how))  # type: ignore[arg-type]
    job = worker.run(worker.create(other=9))
    assert job.result is not None
    bad, good = job.result["results"]
    assert bad == {
        "error": {"code": "internal_error", "detail": "The network failed on this image."}
    }
    assert good["embedding"] == [9]
    counted = worker.metrics.read()["c"]
    for code in ("", "internal_error"):
        assert counted[f"computed_images_total\x1fbright\x1f1\x1fembed\x1f{code}"] == [1]
    worker.models.add("bright", Failing(how, for_all=True))  # type: ignore[arg-type]
    job = worker.run(worker.create())
    assert (job.state, job.error and job.error.code) == ("failed", "internal_error")


def test_worker_without_memory_ends_and_leaves_its_job_to_another(worker: JobWorker) -> None:
    worker.models.add("bright", Failing(OUT_OF_MEMORY, for_all=True))  # type: ignore[arg-type]
    job_id = worker.create()
    job = worker.run(job_id)
    assert (job.state, worker.queues.has_ended) == ("running", True)
    assert worker.files.work(job_id).exists()
    # A job that takes the memory of each worker must not end them all.
    worker.queues.has_ended = False
    worker.leases.release_all("me")
    assert worker.run(job_id).state == "failed"
    assert not worker.queues.has_ended


def test_job_outlives_a_worker_that_has_no_memory_for_a_waiting_client(worker: JobWorker) -> None:
    def ends(_than: Operation = "explain") -> None:
        raise OutOfMemoryError("bright:1:embed: std::bad_alloc")

    job_id = worker.create()
    worker.queues.run_faster_queues = ends  # type: ignore[method-assign]
    assert worker.run(job_id).state == "running"
    assert not worker.queues.has_ended, "the queues' own end is enough"


INFER: tuple[Scope, ...] = ("infer",)
PEOPLE: tuple[Scope, ...] = ("infer", "faces")


@pytest.mark.parametrize("asked", [None, "champion"])
def test_the_version_that_replaced_the_jobs_own_answers(worker: JobWorker, asked: str) -> None:
    worker.models.add("people", Network(9))  # type: ignore[arg-type]
    worker.models.activate("people", {"champion": 9})
    job = worker.run(worker.create_for(asked, INFER))
    assert job.result is not None
    assert job.result["version"] == 9


@pytest.mark.parametrize(
    ("subjects", "asked", "scopes", "size"),
    [
        (("sub_a",), None, INFER, (4, 5)),  # it recognizes people; the job's version did not
        (("sub_a",), "champion", PEOPLE, (4, 5)),  # others than the job's version, perhaps
        ((), None, PEOPLE, (4, 5)),  # the image is a portrait
        ((), None, INFER, (5, 5)),
        ((), "8", INFER, (4, 5)),
    ],
)
def test_no_version_that_was_not_checked_answers_a_job(
    *,
    worker: JobWorker,
    subjects: tuple[str, ...],
    asked: str | None,
    scopes: tuple[Scope, ...],
    size: tuple[int, int],
) -> None:
    worker.models.add("people", Network(1, subjects))  # type: ignore[arg-type]
    worker.models.activate("people", {"champion": 1})
    job = worker.run(worker.create_for(asked, scopes, size))
    assert (job.state, job.error and job.error.code) == ("failed", "model_not_ready")
    assert job.result is None


@pytest.mark.parametrize(
    ("geometry", "short_side", "resize", "may_answer"),
    [
        ("cover", 9, None, True),  # the short side plays no part
        ("squash", 4, None, False),
        ("short_side", 4, None, False),
        ("squash", 4, "crop", True),  # the client has named it
        ("short_side", 4, "crop", False),
        ("squash", 4, "squash", False),  # the job's images were cropped
    ],
)
def test_only_a_version_with_the_same_preparation_replaces_another(
    *,
    worker: JobWorker,
    geometry: Geometry,
    short_side: int,
    resize: Resize | None,
    may_answer: bool,
) -> None:
    """Others see another part of the image: their answers would be wrong without an error."""
    network = Network(9)
    network.manifest.geometry, network.manifest.short_side = geometry, short_side
    worker.models.add("people", network)  # type: ignore[arg-type]
    worker.models.activate("people", {"champion": 9})
    prepared = [4, 5, "cover", 0]
    job = worker.run(worker.create_for(None, INFER, resize=resize, prepared=prepared))
    assert (job.state == "succeeded") == may_answer, job.error


@pytest.mark.parametrize("asked", ["staging", "8"])
def test_a_job_waits_for_its_version_while_that_is_loaded(worker: JobWorker, asked: str) -> None:
    """A worker that was restarted has loaded the champion, and goes on with the other aliases."""
    worker.models.add("people", Network(9))  # type: ignore[arg-type]
    worker.models.activate("people", {"champion": 9})
    worker.store.named = {"champion": 9, "staging": 8}
    job_id = worker.create_for(asked, INFER)
    waiting = worker.run(job_id)
    assert (waiting.state, waiting.attempt) == ("queued", 0), waiting.error
    worker.models.add("people", Network(8))  # type: ignore[arg-type]
    job = worker.run(job_id)
    assert job.result is not None
    assert job.result["version"] == 8


def test_a_job_waits_for_the_version_that_will_replace_its_own(worker: JobWorker) -> None:
    worker.models.add("people", Network(7))  # type: ignore[arg-type]
    worker.store.named = {"champion": 7, "staging": 9}  # it was 8
    job_id = worker.create_for("staging", INFER)
    assert worker.run(job_id).state == "queued"
    worker.models.add("people", Network(9))  # type: ignore[arg-type]
    worker.models.activate("people", {"champion": 7, "staging": 9})
    job = worker.run(job_id)
    assert job.result is not None
    assert job.result["version"] == 9


def test_a_job_waits_while_the_aliases_cannot_be_read(worker: JobWorker) -> None:
    worker.store.is_damaged = True
    assert worker.run(worker.create_for("8", INFER)).state == "queued"


def test_a_job_goes_to_the_worker_that_has_loaded_its_version(worker: JobWorker) -> None:
    """During a promotion; the version that still answers here is not the one it was sent for."""
    worker.models.add("people", Network(7))  # type: ignore[arg-type]
    worker.models.activate("people", {"champion": 7})
    worker.others.loaded = {8}
    job_id = worker.create_for(None, INFER)
    assert worker.run(job_id).state == "queued"
    assert worker.others.sent == [job_id]


def test_consent_that_was_withdrawn_while_a_job_waited_counts(worker: JobWorker) -> None:
    faces = FaceRepositories.of(worker.settings, worker.engine, lambda: datetime.now(UTC))
    consent = NewConsent(version="2026-01", text_digest="sha256:ab")
    subject = str(faces.subjects.create(NewSubject(name="Ada", consent=consent))["id"])
    faces.policy.set(NewPolicy(consent_required=True))
    worker.models.add("bright", Network(1, [subject]))  # type: ignore[arg-type]
    assert worker.run(worker.create()).state == "succeeded"
    job_id = worker.create()
    faces.subjects.change(subject, SubjectChange(consent=None))
    job = worker.run(job_id)
    assert job.error is not None
    assert (job.error.code, "consent" in job.error.detail) == ("conflict", True)
    assert subject not in job.error.detail
    assert not worker.files.work(job_id).exists()


class ReleasingQueues(NoFasterQueues):
    """Clients wait; the database is free again once they were answered a few times."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.answered = 0

    def run_faster_queues(self, than: Operation = "explain") -> None:
        self.answered += 1
        if self.answered == 5:
            self._database.rollback()


def test_clients_are_answered_while_a_job_waits_for_the_database(
    worker: JobWorker, tmp_path: Path
) -> None:
    job_id = worker.create()
    with closing(sqlite3.connect(tmp_path / "opsin.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        queues = ReleasingQueues(database)
        worker.runner = replace(worker.runner, batcher=queues)
        assert worker.run(job_id).state == "succeeded"
    assert queues.answered >= 5
