"""Room for jobs: nobody can take all places, and no kind of job can."""

import pytest

from contracts.errors import QueueFull
from contracts.jobs import Job, JobKind
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from tests.database.conftest import Clock
from tests.database.jobs.listing import listed

LIMIT = 100


def post(jobs: Jobs, client: str | None, kind: JobKind = "filters") -> Job:
    return jobs.create(kind, {}, limit=LIMIT, client=client).job


def fill(jobs: Jobs, client: str | None, kind: JobKind = "filters") -> int:
    """Post until a job is refused; return how many were accepted."""
    for number in range(LIMIT + 1):
        try:
            post(jobs, client, kind)
        except QueueFull:
            return number
    raise AssertionError("nothing was refused")


def test_one_client_cannot_close_the_door_to_others(jobs: Jobs) -> None:
    assert fill(jobs, "key_a") == 45
    with pytest.raises(QueueFull, match="You have 45 unfinished jobs") as full:
        post(jobs, "key_a", "enrollment")
    assert full.value.retry_after == 60
    assert post(jobs, "key_b", "enrollment").state == "queued"
    assert post(jobs, "key_b").queue_position == 2  # in turn with the other client's jobs


def test_many_busy_clients_leave_places_for_new_ones(jobs: Jobs) -> None:
    kinds: tuple[JobKind, ...] = ("filters", "training", "evaluation", "enrollment", "classify")
    for number in range(6):
        assert fill(jobs, f"key_{number}", kinds[number % 5]) >= 1
    assert fill(jobs, "key_new", "enrollment") >= 1
    assert fill(jobs, "key_newer", "classify") >= 1


def test_one_kind_of_job_leaves_places_for_others(jobs: Jobs) -> None:
    accepted = sum(fill(jobs, f"key_{number}") for number in range(20))
    assert accepted == 60  # a tenth is kept for each of the four other queues
    with pytest.raises(QueueFull, match="for other kinds"):
        post(jobs, "key_new", "heatmap")  # in the same queue
    for kind in ("training", "evaluation", "enrollment", "classify"):
        post(jobs, "key_new", kind)  # type: ignore[arg-type]


def test_jobs_of_an_unknown_client_count_in_the_total(jobs: Jobs) -> None:
    """An API of the previous release does not say whose they are."""
    for number in range(LIMIT - 30):
        post(jobs, None, "training" if number % 2 else "classify")
    assert fill(jobs, "key_a", "enrollment") == 10


def test_finished_jobs_make_room(jobs: Jobs, leases: Leases) -> None:
    fill(jobs, "key_a", "enrollment")
    lease = leases.claim_next("faces", "w1", 60)
    assert lease is not None
    leases.succeed(lease, {})
    post(jobs, "key_a", "enrollment")


def test_clients_take_turns(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    """Four jobs of one client, then one each of two others, then two of no known client."""
    ids: dict[str, str] = {}
    for client, count in (("a", 4), ("b", 1), ("c", 1), (None, 2)):
        for number in range(count):
            ids[post(jobs, client).id] = f"{client}{number}"
            clock.advance(1)
    order = ["a0", "b0", "c0", "None0", "a1", "None1", "a2", "a3"]
    positions = {job.id: job.queue_position for job in listed(jobs, limit=100).items}
    assert [ids[one] for one in sorted(positions, key=lambda one: positions[one] or 0)] == order
    started = []
    while lease := leases.claim_next("pictures", "w1", 60):
        started.append(ids[lease.job_id])
        clock.advance(1)
        leases.succeed(lease, {})
    assert started == order


def test_who_was_served_lately_comes_later(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    first = post(jobs, "a")
    lease = leases.claim_next("pictures", "w1", 60)
    assert lease is not None
    assert lease.job_id == first.id
    clock.advance(1)
    post(jobs, "a")
    clock.advance(1)
    late = post(jobs, "b")
    assert late.queue_position == 1
    lease = leases.claim_next("pictures", "w2", 60)
    assert lease is not None
    assert lease.job_id == late.id


def test_lost_job_goes_on_before_others_start(jobs: Jobs, leases: Leases, clock: Clock) -> None:
    lost = post(jobs, "a")
    assert leases.claim_next("pictures", "w1", 60)
    post(jobs, "b")
    clock.advance(61)
    lease = leases.claim_next("pictures", "w2", 60)
    assert lease is not None
    assert lease.job_id == lost.id
