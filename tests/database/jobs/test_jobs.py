"""Jobs from the client's side."""

import base64
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, update

from contracts.errors import (
    Conflict,
    DiskUnusable,
    IdempotencyConflict,
    InvalidImage,
    JobNotFound,
    QueueFull,
    ValidationFailed,
)
from contracts.jobs import Job, JobKind
from contracts.keys import Scope
from database.engine import writing
from database.idempotency import IdempotencyKey
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs, new_job_id
from database.jobs.leases import Leases
from database.tables import JobRecord, MetricRecord
from tests.database.conftest import Clock
from tests.database.jobs.listing import listed

REQUEST = {"model": "squeezenet", "names": ["ä.jpg", None], "top_k": 5}
KEY = IdempotencyKey("k", "POST /v1/classify by key_1", "d" * 64)


def made(jobs: Jobs, count: int = 1, kind: str = "classify") -> list[Job]:
    return [jobs.create(kind, REQUEST, limit=1000).job for _ in range(count)]  # type: ignore[arg-type]


def finished(jobs: Jobs, leases: Leases) -> Job:
    job = made(jobs)[0]
    lease = leases.claim(job.id, "w", 30)
    assert lease is not None
    assert leases.succeed(lease, {"ok": True})
    return jobs.get(job.id)


def test_new_job_is_queued_and_reads_back(jobs: Jobs, clock: Clock) -> None:
    created = jobs.create("classify", REQUEST, limit=1, input_digest="a" * 64)
    assert created.is_new
    assert created.job.state == "queued"
    assert created.job.attempt == 0
    assert created.job.created_at == clock.now
    assert created.job.created_at.utcoffset() == timedelta(0)
    assert jobs.get(created.job.id) == created.job


@pytest.mark.parametrize(
    ("kind", "request_", "about"),
    [
        ("training", {"model": "pets", "name": "no"}, "pets"),
        ("dataset_import", {"name": "my pets", "model": "no"}, "my pets"),
        ("dream", {}, None),
        ("training", {"model": {"of": "another release"}}, None),
        ("enrollment", {"name": "Ada", "model": "faces"}, None),  # people are not named
    ],
)
def test_a_job_says_what_it_is_about(
    jobs: Jobs, kind: JobKind, request_: dict[str, Any], about: str | None
) -> None:
    created = jobs.create(kind, request_, limit=9)
    assert created.job.about == about
    assert jobs.get(created.job.id).about == about


def test_ids_are_random_and_may_be_made_beforehand(jobs: Jobs) -> None:
    ids = {new_job_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(job_id) >= len("job_") + 22 for job_id in ids)
    mine = ids.pop()
    assert jobs.create("embed", {}, limit=1, job_id=mine).job.id == mine


def test_unknown_id_is_not_found(jobs: Jobs) -> None:
    for call in (jobs.get, jobs.cancel, jobs.delete):
        with pytest.raises(JobNotFound):
            call("job_x")


def test_limit_counts_unfinished_jobs(jobs: Jobs, leases: Leases) -> None:
    first = made(jobs, 3)[0]
    with pytest.raises(QueueFull) as full:
        jobs.create("classify", REQUEST, limit=3)
    assert full.value.retry_after == 60
    jobs.cancel(first.id)
    jobs.create("classify", REQUEST, limit=3)
    with pytest.raises(QueueFull) as full:
        jobs.create("classify", REQUEST, limit=3)
    assert full.value.retry_after == 60  # one ended in the last minute
    finished(jobs, leases)
    with pytest.raises(QueueFull) as full:
        jobs.create("classify", REQUEST, limit=3)
    assert full.value.retry_after == 30


def test_concurrent_creation_respects_the_limit(jobs: Jobs) -> None:
    def create(_: int) -> bool:
        try:
            return jobs.create("classify", REQUEST, limit=3).is_new
        except QueueFull:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(16))) == 3


def test_pages_show_every_job_once_newest_first(jobs: Jobs, clock: Clock) -> None:
    expected = []
    for _ in range(4):
        same_time = made(jobs, 3)
        expected += sorted((job.id for job in same_time), reverse=True)[::-1]
        clock.advance(0.000001)
    expected.reverse()
    seen, cursor = [], None
    for _ in range(10):
        page = listed(jobs, limit=5, cursor=cursor)
        seen += [job.id for job in page.items]
        made(jobs)  # a newcomer shifts no page
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == expected


@pytest.mark.parametrize("where", ["request", "result", "metrics"])
def test_a_page_of_large_jobs_ends_early(
    jobs: Jobs, leases: Leases, engine: Engine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Two hundred results of megabytes each would fill the memory of who lists them."""
    monkeypatch.setattr("database.jobs.jobs.MAX_PAGE_BYTES", 250_000)
    large = {"text": "x" * 100_000}
    for _ in range(5):
        (job,) = made(jobs, 1, "training")
        with writing(engine) as session:
            if where == "metrics":
                session.add(MetricRecord(job_id=job.id, key="1", place=1, sequence=1, row=large))
            else:
                session.execute(
                    update(JobRecord).where(JobRecord.id == job.id).values({where: large})
                )
    seen, sizes, cursor = set(), [], None
    for _ in range(4):
        page = listed(jobs, limit=200, cursor=cursor)
        seen |= {job.id for job in page.items}
        sizes.append(len(page.items))
        cursor = page.next_cursor
        if cursor is None:
            break
    assert (sizes, len(seen)) == ([2, 2, 1], 5)
    monkeypatch.setattr("database.jobs.jobs.MAX_PAGE_BYTES", 1)
    assert len(listed(jobs).items) == 1


def test_what_needs_no_result_reads_none(jobs: Jobs, leases: Leases, engine: Engine) -> None:
    """Requests for an artifact or an end of a job would otherwise read megabytes each."""
    job, statements = finished(jobs, leases), list[str]()

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    assert jobs.outline(job.id) == job.model_copy(update={"about": None, "result": None})
    jobs.request_of(job.id)
    jobs.cancel(job.id)
    jobs.delete(job.id)
    assert statements
    assert not [one for one in statements if "jobs.result" in one]


def test_large_results_are_measured_only_until_a_page_is_full(
    jobs: Jobs, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To measure a value, SQLite reads it: two hundred of megabytes take half a second."""
    monkeypatch.setattr("database.jobs.jobs.MAX_PAGE_BYTES", 1)
    made(jobs, 30)
    measured = list[str]()

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if "length(" in statement:
            measured.extend(parameters if isinstance(parameters, tuple) else parameters.values())

    event.listen(engine, "before_cursor_execute", note)
    assert len(listed(jobs, limit=30).items) == 1
    assert len({one for one in measured if str(one).startswith("job_")}) == 2


def test_full_last_page_has_no_next_cursor(jobs: Jobs) -> None:
    made(jobs, 4)
    assert listed(jobs, limit=4).next_cursor is None
    assert listed(jobs).items == listed(jobs, limit=4).items


def test_lists_are_filtered(jobs: Jobs) -> None:
    made(jobs, 2)
    embed = made(jobs, 1, "embed")[0]
    jobs.cancel(embed.id)
    assert [job.id for job in listed(jobs, kind="embed").items] == [embed.id]
    assert [job.id for job in listed(jobs, state="cancelled").items] == [embed.id]
    assert len(listed(jobs, kind="classify", state="queued").items) == 2


def test_a_page_is_full_of_jobs_that_may_be_read(jobs: Jobs, clock: Clock) -> None:
    def make(*scopes: Scope) -> str:
        clock.advance(1)
        return jobs.create("classify", REQUEST, limit=1000, scopes=scopes or None).job.id

    ours = [make("train"), make()]  # of the release before, the scopes are not stored
    for _ in range(5):
        make("infer")
        make("train", "faces")
    page = listed(jobs, limit=2, without=["infer", "faces"])
    assert [job.id for job in page.items] == ours[::-1]
    assert page.next_cursor is None


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "====", "ä", base64.urlsafe_b64encode(b'["2026-01-01T00:00:00", "a"]').decode()]
    + [base64.urlsafe_b64encode(body).decode() for body in (b"[1, 2]", b"{}", b"[" * 9000)]
    + [base64.urlsafe_b64encode(b'["2026-01-01T00:00:00+00:00", null]').decode()]
    # A moment that has no UTC, and a text that has no UTF-8.
    + [base64.urlsafe_b64encode(b'["9999-12-31T23:59:59-23:59", "a"]').decode()]
    + [base64.urlsafe_b64encode(b'["2026-01-01T00:00:00+00:00", "\\ud800"]').decode()],
)
def test_invalid_cursor_is_refused(jobs: Jobs, cursor: str) -> None:
    with pytest.raises(ValidationFailed):
        listed(jobs, cursor=cursor)


@pytest.mark.parametrize("limit", [0, 201, -1])
def test_page_size_is_limited(jobs: Jobs, limit: int) -> None:
    with pytest.raises(ValidationFailed):
        listed(jobs, limit=limit)


def test_cancel_ends_a_queued_job_at_once(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    job = made(jobs)[0]
    assert jobs.cancel(job.id).state == "cancelled"
    assert jobs.get(job.id).finished_at == clock.now
    assert leases.claim(job.id, "w", 30) is None


def test_cancel_does_not_change_a_finished_job(jobs: Jobs, leases: Leases) -> None:
    job = finished(jobs, leases)
    assert jobs.cancel(job.id).state == "succeeded"
    assert jobs.get(job.id) == job


def test_only_finished_jobs_are_deleted(jobs: Jobs, leases: Leases) -> None:
    waiting = made(jobs)[0]
    with pytest.raises(Conflict):
        jobs.delete(waiting.id)
    done = finished(jobs, leases)
    jobs.delete(done.id)
    with pytest.raises(JobNotFound):
        jobs.get(done.id)


def test_purge_deletes_jobs_that_finished_long_ago(
    jobs: Jobs, leases: Leases, clock: Clock
) -> None:
    old, waiting = finished(jobs, leases), made(jobs)[0]
    clock.advance(3601)
    young = finished(jobs, leases)
    assert jobs.purge(timedelta(hours=1)) == 1
    assert {job.id for job in listed(jobs).items} == {waiting.id, young.id}
    assert old.id not in {waiting.id, young.id}


def test_failed_job_has_its_error(jobs: Jobs, leases: Leases) -> None:
    job = made(jobs)[0]
    lease = leases.claim(job.id, "w", 30)
    assert lease is not None
    assert leases.fail(lease, InvalidImage("Send another."))
    failed = jobs.get(job.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert (failed.error.code, failed.error.detail) == ("invalid_image", "Send another.")


def test_same_key_and_body_get_the_first_response(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    first = jobs.create("classify", REQUEST, limit=1, idempotency=KEY)
    leases.claim(first.job.id, "w", 30)
    clock.advance(24 * 3600 - 1)
    again = jobs.create("classify", REQUEST, limit=1, idempotency=KEY)
    assert not again.is_new
    assert again.job == first.job
    assert len(listed(jobs).items) == 1


def test_another_body_with_the_same_key_is_a_conflict(jobs: Jobs) -> None:
    jobs.create("classify", REQUEST, limit=9, idempotency=KEY)
    other = IdempotencyKey(KEY.key, KEY.scope, "e" * 64)
    assert jobs.earlier(KEY) == listed(jobs).items[0]
    with pytest.raises(IdempotencyConflict):
        jobs.earlier(other)
    assert jobs.earlier(IdempotencyKey("none", KEY.scope, "e" * 64)) is None
    with pytest.raises(IdempotencyConflict):
        jobs.create("classify", REQUEST, limit=9, idempotency=other)
    elsewhere = IdempotencyKey(KEY.key, "somebody else", "e" * 64)
    assert jobs.create("classify", REQUEST, limit=9, idempotency=elsewhere).is_new


def test_a_key_whose_job_is_deleted_makes_no_second_one(jobs: Jobs) -> None:
    first = jobs.create("classify", REQUEST, limit=9, idempotency=KEY).job
    jobs.cancel(first.id)
    jobs.delete(first.id)
    calls = (
        lambda: jobs.create("classify", REQUEST, limit=9, idempotency=KEY),
        lambda: jobs.require_room("classify", limit=9, idempotency=KEY),
        lambda: jobs.earlier(KEY),
    )
    for call in calls:
        with pytest.raises(IdempotencyConflict, match=f"{first.id}, has been deleted"):
            call()


def test_key_expires_after_a_day(jobs: Jobs, clock: Clock) -> None:
    first = jobs.create("classify", REQUEST, limit=9, idempotency=KEY)
    clock.advance(24 * 3600)
    second = jobs.create(
        "classify", REQUEST, limit=9, idempotency=IdempotencyKey(KEY.key, KEY.scope, "e" * 64)
    )
    assert second.is_new
    assert second.job.id != first.job.id
    clock.advance(24 * 3600)
    jobs.purge(timedelta(days=365))
    assert jobs.create("classify", REQUEST, limit=9, idempotency=KEY).is_new


def test_refused_job_stores_no_response(jobs: Jobs) -> None:
    blocker = made(jobs)[0]
    with pytest.raises(QueueFull):
        jobs.create("classify", REQUEST, limit=1, idempotency=KEY)
    jobs.cancel(blocker.id)
    assert jobs.create("classify", REQUEST, limit=1, idempotency=KEY).is_new


def test_concurrent_requests_with_one_key_create_one_job(jobs: Jobs) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: jobs.create("classify", REQUEST, limit=99, idempotency=KEY), range(16)
            )
        )
    assert sum(answer.is_new for answer in answers) == 1
    assert len({answer.job.id for answer in answers}) == 1
    assert len(listed(jobs).items) == 1


def test_reader_does_not_wait_for_a_writer(jobs: Jobs, engine: Engine) -> None:
    job = made(jobs)[0]
    with writing(engine) as session:
        session.connection().execute(update(JobRecord).values(state="running"))
        assert jobs.get(job.id) == job


def test_the_scopes_of_a_job_read_back_wherever_it_is_read(jobs: Jobs) -> None:
    job = jobs.create("embed", REQUEST, limit=9, scopes=("infer", "faces")).job
    old = jobs.create("embed", REQUEST, limit=9).job
    for one, scopes in ((job, ("infer", "faces")), (old, None)):
        assert one.scopes == scopes
        assert jobs.get(one.id).scopes == scopes
        assert jobs.history(one.id).job.scopes == scopes
        assert jobs.request_of(one.id) == REQUEST
    assert {one.scopes for one in listed(jobs).items} == {None, ("infer", "faces")}
    assert "scopes" not in job.model_dump()


def test_jobs_whose_files_stay_on_the_disk_are_found_again(
    jobs: Jobs, files: JobFiles, tmp_path: Path
) -> None:
    made = jobs.create("evaluation", {"model": "door", "version": 1}, limit=9, scopes=("faces",))
    folder = files.work(made.job.id).parent
    (elsewhere := tmp_path / "elsewhere").mkdir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(elsewhere)  # which is not followed
    with pytest.raises(DiskUnusable):
        jobs.erase_about("sub_0123456789abcdefghij", {("door", 1)})
    assert jobs.get(made.job.id).state == "cancelled"
    assert jobs.purge(timedelta(seconds=-1)) == 0
    with pytest.raises(DiskUnusable):  # now that the version is deleted
        jobs.erase_about("sub_0123456789abcdefghij", ())
    folder.unlink()
    assert jobs.erase_about("sub_0123456789abcdefghij", ()) == 1
    with pytest.raises(JobNotFound):
        jobs.get(made.job.id)


def test_jobs_whose_files_stay_keep_no_others_from_being_purged(
    jobs: Jobs, leases: Leases, files: JobFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("database.jobs.jobs._PURGE_SECONDS", 0)
    monkeypatch.setattr("database.jobs.jobs._PURGED_TOGETHER", 1)
    stuck = finished(jobs, leases)
    clock.advance(1)
    finished(jobs, leases)
    files.root.mkdir(parents=True, exist_ok=True)
    (files.root / stuck.id).symlink_to(files.root)  # which is not followed
    assert [jobs.purge(timedelta(seconds=-1)) for _ in range(3)] == [0, 1, 0]
    assert [job.id for job in listed(jobs).items] == [stuck.id]
    (files.root / stuck.id).unlink()
    assert jobs.purge(timedelta(seconds=-1)) == 1


def test_an_erasure_finds_a_job_whose_version_was_there_when_it_was_checked(jobs: Jobs) -> None:
    """The version is deleted first; what is created afterwards sees that itself."""
    erasures: list[Future[int]] = []

    def check() -> None:
        erasures.append(pool.submit(jobs.erase_about, "sub_a", {("door", 1)}))
        time.sleep(0.3)  # it waits

    with ThreadPoolExecutor(1) as pool:
        request = {"model": "door", "version": 1}
        jobs.create("embed", request, limit=9, scopes=("faces",), check=check)
    assert erasures[0].result() == 1
    assert listed(jobs).items == []


def test_the_jobs_about_an_erased_person_are_deleted(
    jobs: Jobs, leases: Leases, files: JobFiles
) -> None:
    subject, other = "sub_0123456789abcdefghij", "sub_0123456789ABCDEFGHIX"
    people: tuple[Scope, ...] = ("train", "faces")
    infer: tuple[Scope, ...] = ("infer",)
    train: tuple[Scope, ...] = ("train",)

    def make(kind: JobKind, request: dict[str, Any], result: dict[str, Any] | None = None) -> str:
        scopes = None if request.pop("old", False) else request.pop("scopes", people)
        job_id = jobs.create(kind, request, limit=99, scopes=scopes).job.id
        files.store_artifact(job_id, "filters.gif", b"a face")
        if result is not None:
            lease = leases.claim(job_id, "w", 30)
            assert lease is not None
            leases.succeed(lease, result)
        return job_id

    gone = [
        make("training", {"model": "door", "subjects": [subject]}, {"version": 1}),
        make("evaluation", {"model": "door", "version": 1}, {}),
        make("evaluation", {"model": "door", "version": 7, "against": 2}, {}),
        make("dream", {"model": "door", "version": "2"}, {}),
        make("heatmap", {"model": "door", "version": 1}),  # not ended
        make("classify", {"model": "door", "version": 5}, {"label": subject}),
        make("quantize", {"model": "door", "version": 1, "old": True}, {}),
        make("classify", {"model": "door", "version": 8, "scopes": infer}, {"version": 1}),
        make("sweep", {"model": "door", "scopes": train}, {"reason": f"lacks {subject}"}),
    ]
    running = make("training", {"model": "door", "subjects": [other, subject]})
    kept = [
        running,
        make("training", {"model": "door", "subjects": [other]}, {}),
        make("evaluation", {"model": "door", "version": 3}, {"labels": [other]}),
        make("evaluation", {"model": "pets", "version": 1}, {}),
        make("classify", {"model": "door", "version": 8, "scopes": infer}, {"version": 8}),
        make("training", {"model": "door", "scopes": train}, {"version": 8}),
        make("enrollment", {"subject_id": subject}, {}),
    ]
    assert jobs.erase_about(subject, {("door", 1), ("door", 2)}) == len(gone)
    assert {job.id for job in listed(jobs).items} == set(kept)
    assert {path.name for path in files.root.iterdir()} == set(kept)
    jobs.cancel(running)
    assert jobs.erase_about(subject, ()) == 1
    assert running not in {job.id for job in listed(jobs).items}


def test_the_subjects_that_jobs_name_are_found(jobs: Jobs, leases: Leases) -> None:
    ada, bob, eve = (f"sub_0123456789abcdefgh{end}" for end in ("-a", "_b", "-e"))
    jobs.create("training", {"model": "door", "subjects": [ada]}, limit=9)
    jobs.create("classify", {"model": "door", "name": f"not_{eve}"}, limit=9)
    made = jobs.create("classify", {"model": "door"}, limit=9).job.id
    lease = leases.claim(made, "w", 30)
    assert lease is not None
    leases.succeed(lease, {"weights": {bob: 0.9}, "reason": "subjects: none"})
    assert jobs.subjects() == {ada, bob}


def test_a_job_that_no_worker_has_is_ended_at_once(jobs: Jobs, leases: Leases) -> None:
    """After a restore, its lease is of a worker that is gone."""
    ada = "sub_0123456789abcdefghij"
    running, other = (
        jobs.create("training", {"model": "door", "subjects": [one]}, limit=9).job.id
        for one in (ada, "sub_0123456789ABCDEFGHIJ")
    )
    for job_id in (running, other):
        assert leases.claim(job_id, "w", 30) is not None
    jobs.abandon(ada)
    assert [jobs.get(one).state for one in (running, other)] == ["cancelled", "running"]
