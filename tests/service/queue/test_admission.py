"""Admission: as much as fits, and only what can be answered in time."""

import pytest

from contracts.errors import QueueFull
from contracts.queue.redis_keys import QueueName
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
    assert admission.in_progress(QUEUE) == 0


def test_request_that_would_be_answered_too_late_is_refused(admission: Admission) -> None:
    with admission.permit(QUEUE, 5, rate=2.0, seconds=1.0):  # nothing else waits, so it is tried
        with pytest.raises(QueueFull) as refused, admission.permit(QUEUE, 1, 2.0, seconds=2.4):
            pass
        assert refused.value.retry_after == 3
        with pytest.raises(QueueFull):  # also before it is read
            admission.require_room(QUEUE, 2.0, seconds=2.4)
        admission.require_room(QUEUE, 2.0, seconds=2.6)
        with admission.permit(QUEUE, 1, rate=2.0, seconds=2.6):
            assert admission.in_progress(QUEUE) == 6
        with admission.permit(QUEUE, 1, rate=None, seconds=0.1):
            assert admission.in_progress(QUEUE) == 6
    assert admission.in_progress(QUEUE) == 0
