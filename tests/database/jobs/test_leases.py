"""Jobs from the workers' side: taken by one, lost by the dead, finished once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import get_args

import pytest
from sqlalchemy import Engine

from contracts.errors import InvalidImage, ModelNotReady
from contracts.jobs import Job, JobKind, Progress
from contracts.metrics.registry import Metrics
from contracts.tracing.origin import Origin, TraceContext
from database.jobs.jobs import Jobs
from database.jobs.leases import MAX_ATTEMPTS, Lease, Leases
from tests.database.conftest import Clock

REQUEST = {"model": "vgg16"}
STALE = 300.0


@pytest.fixture
def job(jobs: Jobs) -> Job:
    return jobs.create("embed", REQUEST, limit=100).job


def claimed(leases: Leases, job: Job, worker: str = "w1") -> Lease:
    lease = leases.claim(job.id, worker, 30)
    assert lease is not None
    return lease


def test_claimed_job_is_running(jobs: Jobs, leases: Leases, job: Job, clock: Clock) -> None:
    clock.advance(1)
    lease = claimed(leases, job)
    assert (lease.kind, lease.request, lease.attempt) == ("embed", REQUEST, 1)
    running = jobs.get(job.id)
    assert (running.state, running.attempt) == ("running", 1)
    assert leases.claim(job.id, "w2", 30) is None


def test_one_of_many_workers_gets_the_job(leases: Leases, job: Job) -> None:
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: leases.claim(job.id, f"w{n}", 30), range(16)))
    assert sum(lease is not None for lease in got) == 1


def test_one_of_many_workers_gets_a_lost_job(leases: Leases, job: Job, clock: Clock) -> None:
    claimed(leases, job)
    clock.advance(31)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda n: leases.claim(job.id, f"x{n}", 30), range(16)))
    assert [lease.attempt for lease in got if lease] == [2]


def test_unknown_job_is_not_claimed(leases: Leases) -> None:
    assert leases.claim("job_x", "w", 30) is None


def test_a_job_may_be_looked_at_before_it_is_claimed(jobs: Jobs, leases: Leases, job: Job) -> None:
    seen = leases.look_at(job.id)
    assert seen is not None
    assert (seen.request, seen.scopes) == (REQUEST, None)
    assert (jobs.get(job.id).state, jobs.get(job.id).attempt) == ("queued", 0)
    leases.succeed(claimed(leases, job), {})
    assert leases.look_at(job.id) is None
    assert leases.look_at("job_none") is None


def test_heartbeat_renews_the_lease(leases: Leases, job: Job, clock: Clock) -> None:
    lease = claimed(leases, job)
    for _ in range(5):
        clock.advance(20)
        assert leases.heartbeat(lease, 30)
        assert leases.claim(job.id, "w2", 30) is None


def test_finished_job_has_its_result(jobs: Jobs, leases: Leases, job: Job, clock: Clock) -> None:
    lease = claimed(leases, job)
    assert leases.progress(lease, Progress(fraction=0.5, phase="compute", step=1, steps=2))
    assert jobs.get(job.id).progress.phase == "compute"
    clock.advance(3)
    assert leases.succeed(lease, {"results": [1.5, "ü", None]})
    done = jobs.get(job.id)
    assert done.state == "succeeded"
    assert done.result == {"results": [1.5, "ü", None]}
    assert done.progress.fraction == 1
    assert done.finished_at == clock.now
    assert leases.claim(job.id, "w2", 30) is None


def test_worker_that_lost_the_lease_changes_nothing(
    jobs: Jobs, leases: Leases, job: Job, clock: Clock
) -> None:
    slow = claimed(leases, job, "same worker")
    clock.advance(31)
    second = claimed(leases, job, "same worker")
    assert second.attempt == 2
    before = jobs.get(job.id)
    assert not leases.succeed(slow, {"stolen": True})
    assert not leases.fail(slow, InvalidImage("stolen"))
    assert not leases.cancel(slow)
    assert not leases.progress(slow, Progress(fraction=0.9))
    assert not leases.heartbeat(slow, 3000)
    assert jobs.get(job.id) == before
    assert leases.succeed(second, {})
    assert not leases.succeed(second, {"twice": True})
    assert jobs.get(job.id).result == {}


def test_started_at_is_the_first_attempt(
    jobs: Jobs, leases: Leases, job: Job, clock: Clock
) -> None:
    claimed(leases, job)
    started = clock.now
    clock.advance(31)
    claimed(leases, job, "w2")
    assert jobs.get(job.id).started_at == started


def test_running_job_is_cancelled_by_its_worker(jobs: Jobs, leases: Leases, job: Job) -> None:
    lease = claimed(leases, job)
    assert not leases.is_cancel_requested(job.id)
    assert jobs.cancel(job.id).state == "running"
    assert leases.is_cancel_requested(job.id)
    assert leases.cancel(lease)
    assert jobs.get(job.id).state == "cancelled"


def test_work_on_a_deleted_job_should_stop(leases: Leases) -> None:
    assert leases.is_cancel_requested("job_x")


def test_job_of_a_dead_worker_is_sent_again_and_then_given_up(
    jobs: Jobs, leases: Leases, job: Job, clock: Clock
) -> None:
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert claimed(leases, job).attempt == attempt
        assert leases.sweep(STALE).resend == []
        clock.advance(31)
        if attempt < MAX_ATTEMPTS:
            assert leases.sweep(STALE).resend == [job.id]
            assert leases.sweep(STALE).resend == []
            clock.advance(1)
    assert leases.claim(job.id, "w9", 30) is None
    assert leases.sweep(STALE).failed == [job.id]
    assert leases.sweep(STALE).failed == []
    failed = jobs.get(job.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert failed.error.code == "internal_error"
    assert failed.finished_at == clock.now


def test_cancelled_job_of_a_dead_worker_ends(
    jobs: Jobs, leases: Leases, job: Job, clock: Clock
) -> None:
    claimed(leases, job)
    jobs.cancel(job.id)
    clock.advance(31)
    assert leases.claim(job.id, "w2", 30) is None
    assert leases.sweep(STALE).cancelled == [job.id]
    assert jobs.get(job.id).state == "cancelled"


def test_job_whose_model_is_loaded_nowhere_ends(
    jobs: Jobs, leases: Leases, job: Job, clock: Clock
) -> None:
    training = jobs.create("training", REQUEST, limit=100).job
    day = timedelta(days=1)
    clock.advance(24 * 3600 - 1)
    assert leases.sweep(STALE, day).failed == []
    clock.advance(1)
    assert leases.sweep(STALE, day).failed == [job.id]
    failed = jobs.get(job.id)
    assert (failed.state, failed.error and failed.error.code) == ("failed", "model_not_ready")
    assert jobs.get(training.id).state == "queued", "it may wait for another one"


def test_job_waits_while_others_of_its_version_are_worked_on(
    jobs: Jobs, leases: Leases, clock: Clock
) -> None:
    day, requests = timedelta(days=1), [{"model": "pets", "version": number} for number in (1, 2)]
    one, two = (jobs.create("embed", request, limit=100).job for request in requests)
    clock.advance(24 * 3600)
    claimed(leases, jobs.create("embed", requests[1], limit=100).job)
    assert leases.sweep(STALE, day).failed == [one.id], "no worker has version 1"
    clock.advance(29)
    assert leases.sweep(STALE, day).failed == []
    assert jobs.get(two.id).state == "queued"
    lease = claimed(leases, jobs.create("embed", requests[1], limit=100).job)
    leases.succeed(lease, {})
    clock.advance(24 * 3600 - 1)
    leases.release_all("w1")
    assert two.id not in leases.sweep(STALE, day).failed, "the last one began less than a day ago"


def test_only_a_queued_job_is_given_up(jobs: Jobs, leases: Leases, job: Job) -> None:
    other = jobs.create("embed", REQUEST, limit=100).job
    claimed(leases, job)
    assert not leases.give_up(job.id, ModelNotReady("gone"))
    assert leases.give_up(other.id, ModelNotReady("gone"))
    assert [jobs.get(one.id).state for one in (job, other)] == ["running", "failed"]


def test_lost_task_is_returned_to_one_caller(leases: Leases, job: Job, clock: Clock) -> None:
    clock.advance(STALE - 1)
    assert leases.sweep(STALE).resend == []
    clock.advance(1)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: leases.sweep(STALE).resend, range(8)))
    assert max(results, key=len) == [job.id]
    assert sum(map(len, results)) == 1


def test_jobs_of_every_kind_are_counted_when_they_end(engine: Engine, clock: Clock) -> None:
    metrics = Metrics()
    jobs, leases = Jobs(engine, clock, None, metrics), Leases(engine, clock, metrics)
    kinds: tuple[JobKind, ...] = get_args(JobKind)
    for kind in kinds:
        for end in ("succeeded", "failed", "cancelled"):
            job = jobs.create(kind, {}, limit=1000).job
            if end == "cancelled":
                jobs.cancel(job.id)
                continue
            lease = claimed(leases, job)
            if end == "succeeded":
                assert leases.succeed(lease, {})
            else:
                assert leases.fail(lease, InvalidImage("It is none."))
    ended = {
        tuple(field.split("\x1f")[1:]): values
        for field, values in metrics.read()["c"].items()
        if field.startswith("jobs_ended_total")
    }
    outcomes = (("succeeded", ""), ("failed", "invalid_image"), ("cancelled", ""))
    assert ended == {(kind, *outcome): [1] for kind in kinds for outcome in outcomes}
    shown = jobs.counts().by_state
    assert {(kind, state): number for (kind, _, state), number in shown.items()} == {
        (kind, state): 1 for kind in kinds for state, _ in outcomes
    }


def test_a_job_keeps_the_request_that_made_it(jobs: Jobs, leases: Leases) -> None:
    """One that an API of the release before has made has none."""
    origin = Origin("the-request", TraceContext("a" * 32, "b" * 16, "01"))
    made = jobs.create("embed", REQUEST, limit=100, origin=origin).job
    lease = claimed(leases, made)
    assert lease.origin == origin
    assert leases.get(made.id, "w1", 1) == lease
    assert claimed(leases, jobs.create("embed", REQUEST, limit=100).job).origin == Origin()
