"""What is let in: as much as fits, and only what can be answered in its time."""

import pytest

from contracts.errors import QueueFull
from service.queue.admission import Admission, LaneLimits

LANE = "lane:squeezenet:1:classify"


@pytest.fixture
def admission() -> Admission:
    return Admission(LaneLimits(8))


def test_a_lane_holds_so_many_and_has_room_again(admission: Admission) -> None:
    with admission.permit(LANE, 8, 10.0):
        with pytest.raises(QueueFull), admission.permit(LANE, 1, 10.0):
            pass
        with pytest.raises(QueueFull):
            admission.require_room(LANE, 10.0)
    assert admission.under_way(LANE) == 0


def test_who_would_be_answered_too_late_is_refused_at_once(admission: Admission) -> None:
    with admission.permit(LANE, 5, rate=2.0, seconds=1.0):  # alone: it is tried
        with pytest.raises(QueueFull) as refused, admission.permit(LANE, 1, 2.0, seconds=2.4):
            pass
        assert refused.value.retry_after == 3
        with pytest.raises(QueueFull):  # before it is read, too
            admission.require_room(LANE, 2.0, seconds=2.4)
        admission.require_room(LANE, 2.0, seconds=2.6)
        with admission.permit(LANE, 1, rate=2.0, seconds=2.6):
            assert admission.under_way(LANE) == 6
        with admission.permit(LANE, 1, rate=None, seconds=0.1):
            assert admission.under_way(LANE) == 6
    assert admission.under_way(LANE) == 0
