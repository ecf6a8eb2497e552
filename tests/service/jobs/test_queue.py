"""Jobs that run in their own process: files, then the row, then the notification."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from redis.asyncio import Redis

from contracts.errors import DiskUnusable, IdempotencyConflict, QueueFull, VersionNotFound
from contracts.inference.manifest import Provenance
from contracts.keys import Scope
from contracts.queue import redis_keys
from contracts.queue.celery import celery_app
from contracts.queue.messages import Item, unpack_bundle
from contracts.settings import Settings
from database.engine import open_engine
from database.installation import FILE
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from models.store.store import Store
from service.jobs import queue as queue_module
from service.jobs.queue import JobItem, JobQueue
from service.threads import run_in_threadpool
from tests.database.jobs.listing import listed
from tests.models.drafts import DRAFT, write_files
from tests.tables import make_tables
from tests.valkey import RealValkey

T = TypeVar("T")


class Parts:
    def __init__(self, queue: JobQueue, jobs: Jobs, files: JobFiles, client: Redis) -> None:
        self.job_queue, self.jobs, self.files, self.client = queue, jobs, files, client

    def folders(self) -> set[str]:
        return {path.name for path in self.files.root.glob("*")}


def publish(store: Store, model: str, *subjects: str) -> None:
    with store.staging() as folder:
        write_files(folder)
        provenance = Provenance(spec={"subjects": list(subjects)})
        store.publish(model, folder, DRAFT.model_copy(update={"provenance": provenance}))


def run(home: Path, valkey: RealValkey, test: Callable[[Parts], Awaitable[None]]) -> None:
    settings = Settings(_env_file=None, home=home, redis_url=valkey.url, job_limit=2)
    make_tables(settings.database)
    (home / FILE).write_text("ins_1\n")
    engine = open_engine(settings.database)
    celery = celery_app(valkey.url)
    files = JobFiles(settings.jobs_home)
    jobs = Jobs(engine, lambda: datetime.now(UTC), files)
    leases = Leases(engine, lambda: datetime.now(UTC))

    async def all_of_it() -> None:
        client = Redis.from_url(valkey.url)
        queue = JobQueue(
            *(client, celery, jobs, leases),
            files=files,
            store=Store(settings.store_home),
            settings=settings,
        )
        try:
            await test(Parts(queue, jobs, files, client))
        finally:
            await queue.stop()
            await client.aclose()

    try:
        asyncio.run(all_of_it())
    finally:
        celery.close()
        engine.dispose()


@pytest.mark.parametrize("inputs", [None, {"image": b"1"}])
def test_no_job_is_accepted_while_the_home_is_missing(
    tmp_path: Path, valkey: RealValkey, inputs: dict[str, bytes] | None
) -> None:
    async def test(parts: Parts) -> None:
        (tmp_path / FILE).unlink()
        with pytest.raises(DiskUnusable, match="not mounted"):
            await parts.job_queue.submit_work("dream", {"steps": 3}, inputs=inputs)
        with pytest.raises(DiskUnusable, match="not mounted"):
            await parts.job_queue.submit(
                "filters", "tiny", 1, request={}, items=[], idempotency=None
            )
        assert not parts.files.root.exists()
        assert listed(parts.jobs).items == []

    run(tmp_path, valkey, test)


def test_inputs_are_stored_before_the_notification(tmp_path: Path, valkey: RealValkey) -> None:
    async def test(parts: Parts) -> None:
        job = await parts.job_queue.submit_work("dream", {"steps": 3}, inputs={"image": b"1"})
        assert (parts.files.work(job.id) / "image").read_bytes() == b"1"
        assert parts.jobs.get(job.id).queue_position == 1
        assert await parts.client.llen("pictures") == 1

    run(tmp_path, valkey, test)


def test_a_job_is_stored_with_all_scopes_of_what_it_is_about(
    tmp_path: Path, valkey: RealValkey
) -> None:
    async def test(parts: Parts) -> None:
        request = {"model": "new", "subjects": ["sub_a"]}
        work = await parts.job_queue.submit_work("training", request)
        images = await parts.job_queue.submit(
            "embed", "face_embedder", 1, request={}, items=[], idempotency=None
        )
        assert parts.jobs.get(work.id).scopes == ("train", "faces")
        assert parts.jobs.get(images.id).scopes == ("infer", "faces")

    run(tmp_path, valkey, test)


def test_a_job_is_stored_with_the_scopes_that_its_route_has_checked(
    tmp_path: Path, valkey: RealValkey
) -> None:
    async def test(parts: Parts) -> None:
        job = await parts.job_queue.submit_work("sweep", {"model": "a"}, scopes=["faces"])
        assert parts.jobs.get(job.id).scopes == ("train", "faces")

    run(tmp_path, valkey, test)


@pytest.mark.parametrize("is_work", [True, False])
def test_no_job_is_made_for_a_version_of_people_that_is_deleted_at_the_last_moment(
    tmp_path: Path, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch, is_work: bool
) -> None:
    """An erasure that has listed the jobs before would not find it."""
    store = Store(tmp_path / "store")
    publish(store, "door", "sub_a")
    own_scopes = queue_module.scopes_of_request

    def then_deleted(*args: Any) -> tuple[Scope, ...]:
        scopes = own_scopes(*args)
        store.delete("door", 1)
        return scopes

    monkeypatch.setattr(queue_module, "scopes_of_request", then_deleted)

    async def test(parts: Parts) -> None:
        request = {"model": "door", "version": 1}
        item = JobItem(None, 8, 8, np.zeros((8, 8, 3), np.uint8))
        if is_work:
            made = parts.job_queue.submit_work("heatmap", request, inputs={"0": b"1"})
        else:
            made = parts.job_queue.submit(
                "embed", "door", 1, request={}, items=[item], idempotency=None
            )
        with pytest.raises(VersionNotFound):
            await made
        assert listed(parts.jobs).items == []
        assert parts.folders() == set()

    run(tmp_path, valkey, test)


def cancel(jobs: Jobs, job_id: str) -> None:
    jobs.cancel(job_id)


def cancel_and_delete(jobs: Jobs, job_id: str) -> None:
    jobs.cancel(job_id)
    jobs.delete(job_id)


def purge(jobs: Jobs, job_id: str) -> None:
    jobs.cancel(job_id)
    assert jobs.purge(timedelta(seconds=-1)) == 1


def erase(jobs: Jobs, _job_id: str) -> None:
    assert jobs.erase_about("sub_a", {("squeezenet", 1)}) == 1


@pytest.mark.parametrize("end", [cancel, cancel_and_delete, purge, erase])
def test_pixels_of_a_job_are_in_its_folder_only_and_leave_with_it(
    tmp_path: Path, valkey: RealValkey, end: Callable[[Jobs, str], None]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)

    async def test(parts: Parts) -> None:
        publish(Store(tmp_path / "store"), "squeezenet", "sub_a")
        item = JobItem(None, 8, 8, pixels)
        job = await parts.job_queue.submit(
            "classify", "squeezenet", 1, request={}, items=[item] * 2, idempotency=None
        )
        stored = (parts.files.work(job.id) / redis_keys.JOB_INPUT).read_bytes()
        images = [Item.unpack(raw).pixels.tobytes() for raw in unpack_bundle(stored)]
        assert images == [pixels.tobytes()] * 2
        assert await parts.client.llen("inference.squeezenet") == 1
        assert pixels.tobytes() not in valkey.log_content()
        assert not await parts.client.exists(f"job:{job.id}:input")
        end(parts.jobs, job.id)
        assert parts.folders() == set()

    run(tmp_path, valkey, test)


def test_a_repeated_key_returns_the_first_job_and_leaves_no_files(
    tmp_path: Path, valkey: RealValkey
) -> None:
    async def test(parts: Parts) -> None:
        async def send(digest: str) -> str:
            job = await parts.job_queue.submit_work(
                "dream", {}, inputs={"image": b"1"}, idempotency=("key", digest)
            )
            return job.id

        first = await send("a")
        assert await send("a") == first
        with pytest.raises(IdempotencyConflict):
            await send("b")
        assert parts.folders() == {first}
        assert await parts.client.llen("pictures") == 1

    run(tmp_path, valkey, test)


@pytest.mark.parametrize("has_images", [True, False])
def test_whoever_gives_up_while_a_job_is_stored_leaves_nothing(
    tmp_path: Path, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch, has_images: bool
) -> None:
    """By a short `X-Timeout-Ms`, while many wait for the threads: Redis would fill up."""

    async def test(parts: Parts) -> None:
        is_stored, may_go_on = asyncio.Event(), asyncio.Event()

        async def slow(function: Callable[..., T], *args: Any, **options: Any) -> T:
            if parts.folders():
                is_stored.set()
                await may_go_on.wait()
            return await run_in_threadpool(function, *args, **options)

        monkeypatch.setattr(queue_module, "run_in_threadpool", slow)
        pixels = np.zeros((64, 64, 3), np.uint8)
        submit = (
            parts.job_queue.submit(
                "classify",
                "squeezenet",
                1,
                request={},
                items=[JobItem(None, 64, 64, pixels)],
                idempotency=None,
            )
            if has_images
            else parts.job_queue.submit_work("dream", {}, inputs={"image": b"1"})
        )
        task = asyncio.ensure_future(submit)
        await asyncio.wait_for(is_stored.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left = parts.folders()
        may_go_on.set()  # first: the queue waits for it if this test fails
        assert len(left) == 1
        await parts.job_queue.stop()
        assert parts.folders() == set()
        assert await parts.client.keys("*") == []
        assert listed(parts.jobs).items == []

    run(tmp_path, valkey, test)


@pytest.mark.parametrize("has_images", [True, False])
def test_what_callers_that_have_gone_hold_counts_until_it_is_let_go(
    tmp_path: Path, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch, has_images: bool
) -> None:
    """By hanging up, while the threads are busy: thousands would fill the memory."""

    async def test(parts: Parts) -> None:
        is_waiting, may_go_on = asyncio.Event(), asyncio.Event()
        queue = parts.job_queue

        async def slow(function: Callable[..., T], *args: Any, **options: Any) -> T:
            if "_store" in getattr(function, "__name__", ""):
                is_waiting.set()
                await may_go_on.wait()
            return await run_in_threadpool(function, *args, **options)

        monkeypatch.setattr(queue_module, "run_in_threadpool", slow)
        budget = queue.pixels if has_images else queue._inputs
        size = budget._budget // 2

        async def submit() -> None:
            if not has_images:
                await queue.submit_work("dream", {}, inputs={"image": b"1"}, client="a")
                return
            item = JobItem(None, 8, 8, np.zeros((8, 8, 3), np.uint8))
            with ExitStack() as held:
                held.enter_context(budget.held("a", size))
                await queue.submit(
                    "classify", "net", 1, request={}, items=[item], idempotency=None, held=held
                )

        task = asyncio.ensure_future(submit())
        await asyncio.wait_for(is_waiting.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            with pytest.raises(QueueFull):
                budget.require("a", size)
        finally:
            may_go_on.set()
        await queue.stop()
        budget.require("a", size)
        assert (parts.folders(), listed(parts.jobs).items) == (set(), [])

    run(tmp_path, valkey, test)


def test_a_full_queue_stores_nothing(tmp_path: Path, valkey: RealValkey) -> None:
    async def test(parts: Parts) -> None:
        ids = {(await parts.job_queue.submit_work("training", {"n": n})).id for n in range(2)}
        with pytest.raises(QueueFull):
            await parts.job_queue.submit_work("dream", {}, inputs={"image": b"1"})
        assert parts.folders() == set()
        assert {job.id for job in listed(parts.jobs).items} == ids

    run(tmp_path, valkey, test)


def test_a_refused_job_neither_touches_the_disk_nor_waits_for_the_database_s_writer(
    tmp_path: Path, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(parts: Parts) -> None:
        first = await parts.job_queue.submit_work("training", {}, idempotency=("key", "a"))
        await parts.job_queue.submit_work("training", {})
        monkeypatch.setattr(JobFiles, "store_inputs", _no_file)
        path = Settings(_env_file=None, home=tmp_path).database.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            with pytest.raises(QueueFull):
                await parts.job_queue.submit_work("dream", {}, inputs={"image": b"1"})
            image = JobItem("a.png", 2, 2, np.zeros((2, 2, 3), np.uint8))
            with pytest.raises(QueueFull):
                await parts.job_queue.submit(
                    "classify", "squeezenet", 1, request={}, items=[image], idempotency=None
                )
        assert await parts.client.keys("job*") == []
        again = await parts.job_queue.submit_work("training", {}, idempotency=("key", "a"))
        assert again.id == first.id, "a repeated request needs no room"

    run(tmp_path, valkey, test)


def _no_file(_files: JobFiles, _job_id: str, inputs: Mapping[str, object]) -> None:
    assert not inputs, "stored before there was room for it"


def test_a_lost_notification_is_sent_again_but_only_once(
    tmp_path: Path, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.queue._STALE_SECONDS", 0.0)

    async def test(parts: Parts) -> None:
        for n in range(2):
            await parts.job_queue.submit_work("training", {"n": n})
        await parts.client.delete("training")
        for _ in range(3):
            await parts.job_queue.check()
        assert await parts.client.llen("training") == 1

    run(tmp_path, valkey, test)


def test_a_notification_has_no_expiry_that_a_skewed_clock_could_pass(
    tmp_path: Path, valkey: RealValkey
) -> None:
    async def test(parts: Parts) -> None:
        await parts.job_queue.submit_work("dream", {})
        sent = json.loads(await parts.client.lindex("pictures", 0))
        assert sent["headers"]["expires"] is None

    run(tmp_path, valkey, test)


def test_unread_notifications_and_tasks_do_not_pile_up(
    tmp_path: Path, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_MAX_TASKS", 30)

    async def test(parts: Parts) -> None:
        for _ in range(40):
            await parts.job_queue._send("job_1", "pictures", "")
            await parts.job_queue._send("job_1", None, "squeezenet")
        assert await parts.client.llen("pictures") == 16
        assert await parts.client.llen("inference.squeezenet") == 30

    run(tmp_path, valkey, test)


@pytest.mark.parametrize("home", [True, False])
def test_jobs_of_a_model_without_any_alias_end(
    tmp_path: Path, valkey: RealValkey, monkeypatch: pytest.MonkeyPatch, *, home: bool
) -> None:
    monkeypatch.setattr(queue_module, "_STALE_SECONDS", 0)
    store = Store(tmp_path / "store")
    for model in ("gone", "kept"):
        publish(store, model)
        store.promote(model, 1, "champion")

    async def test(parts: Parts) -> None:
        item = JobItem(None, 4, 4, np.zeros((4, 4, 3), np.uint8))
        gone, kept = [
            await parts.job_queue.submit(
                "embed", model, 1, request={}, items=[item], idempotency=None
            )
            for model in ("gone", "kept")
        ]
        shutil.rmtree(tmp_path / "store" / "gone")
        if not home:
            (tmp_path / FILE).unlink()
        await parts.job_queue.check()
        job = parts.jobs.get(gone.id)
        assert (job.error and job.error.code) == ("model_not_ready" if home else None)
        assert parts.files.work(gone.id).exists() is not home
        assert parts.jobs.get(kept.id).state == "queued"

    run(tmp_path, valkey, test)
