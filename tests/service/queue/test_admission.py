"""Admission: as much as fits, and only what can be answered in time."""

import contextlib

import pytest

from contracts.errors import QueueFull
from contracts.queue.redis_keys import QueueName
from service.inference.fair_pool import part_of
from service.queue.admission import Admission, QueueLimits

QUEUE = QueueName("squeezenet", 1, "classify")


@pytest.fixture
def admission() -> Admission:
    return Admission(QueueLimits(8))


def test_limits_depend_on_the_operation() -> None:
    limits = QueueLimits(8, {"clip": 2})
    assert limits.limit(QUEUE) == 8
    assert limits.limit(QueueName("face_embedder", 1, "clip")) == 2


def test_full_queue_refuses_until_there_is_room_again(admission: Admission) -> None:
    with admission.permit(QUEUE, 8, 10.0):
        with pytest.raises(QueueFull), admission.permit(QUEUE, 1, 10.0):
            pass
        with pytest.raises(QueueFull):
            admission.require_room(QUEUE, 10.0)
    assert admission.counts().get(QUEUE, 0) == 0


def test_request_that_would_be_answered_too_late_is_refused(admission: Admission) -> None:
    with admission.permit(QUEUE, 5, rate=2.0, seconds=1.0):  # nothing else waits, so it is tried
        with pytest.raises(QueueFull) as refused, admission.permit(QUEUE, 1, 2.0, seconds=2.4):
            pass
        assert refused.value.retry_after == 3
        with pytest.raises(QueueFull):  # also before it is read
            admission.require_room(QUEUE, 2.0, seconds=2.4)
        admission.require_room(QUEUE, 2.0, seconds=2.6)
        with admission.permit(QUEUE, 1, rate=2.0, seconds=2.6):
            assert admission.counts()[QUEUE] == 6
        with admission.permit(QUEUE, 1, rate=None, seconds=0.1):
            assert admission.counts()[QUEUE] == 6
    assert admission.counts().get(QUEUE, 0) == 0


def test_a_client_that_has_filled_a_queue_closes_it_to_itself_alone(admission: Admission) -> None:
    with admission.permit(QUEUE, 8, 10.0, client="many") as many_are_beyond:
        assert not many_are_beyond
        with pytest.raises(QueueFull), admission.permit(QUEUE, 1, 10.0, client="many"):
            pass
        admission.require_room(QUEUE, 10.0, client="other")
        with admission.permit(QUEUE, 1, 10.0, client="other") as is_beyond:
            assert is_beyond
            with pytest.raises(QueueFull), admission.permit(QUEUE, 1, 10.0, client="other"):
                pass
        with pytest.raises(QueueFull), admission.permit(QUEUE, 2, 10.0, client="other"):
            pass  # not without bounds
    assert admission.counts().get(QUEUE, 0) == 0


def test_newcomers_are_bounded_in_total(admission: Admission) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(admission.permit(QUEUE, 8, None, client="many"))
        for number in range(8):
            stack.enter_context(admission.permit(QUEUE, 1, None, client=f"other {number}"))
        with pytest.raises(QueueFull):
            admission.require_room(QUEUE, None, client="one more")


@pytest.mark.parametrize("rate", [None, 1.0])
def test_parts_of_one_client_leave_places_for_other_clients(
    admission: Admission, rate: float | None
) -> None:
    """An app sends clips of as many people as it likes, who need not exist."""
    slow = QueueName("opsin-face", 1, "clip")
    with contextlib.ExitStack() as stack:
        admitted = 0
        for number in range(100):
            permit = admission.permit(slow, 1, rate, 30.0, part_of("app", f"sub_{number}"))
            with contextlib.suppress(QueueFull):
                stack.enter_context(permit)
                admitted += 1
        assert admitted == 12, "someone new among its people has a place beyond the limit of eight"
        stack.enter_context(admission.permit(slow, 1, rate, 30.0, part_of("other", "sub_1")))
        with pytest.raises(QueueFull):
            stack.enter_context(admission.permit(slow, 1, rate, 30.0, part_of("app", "sub_1")))


def test_the_wait_in_an_alternating_queue_is_for_ones_own_images(admission: Admission) -> None:
    slow = QueueName("squeezenet", 1, "explain")
    with admission.permit(slow, 8, 1.0, client="many"):
        with admission.permit(slow, 1, 1.0, seconds=3, client="other"):
            pass
        with pytest.raises(QueueFull):
            admission.require_room(slow, 1.0, seconds=1, client="other")


def test_who_fills_the_queue_of_a_slow_network_closes_it_to_itself_alone() -> None:
    """Clients take turns in it, so another one need not wait for all that is there."""
    admission = Admission(QueueLimits(128))
    with admission.permit(QUEUE, 100, 3.0, seconds=30, client="many"):
        with pytest.raises(QueueFull):
            admission.require_room(QUEUE, 3.0, seconds=30, client="many")
        admission.require_room(QUEUE, 3.0, seconds=30, client="other")
        with pytest.raises(QueueFull):  # behind what is in the queue by now
            admission.require_room(QUEUE, 3.0, seconds=1.9, client="other")
