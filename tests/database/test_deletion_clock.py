"""What is deleted for its age is not deleted by a clock that is suddenly far ahead."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from database.audit import COMMAND, Audit
from database.deletion_clock import STEP, DeletionClock

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTES = timedelta(minutes=10)


class SetClock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def host() -> SetClock:
    return SetClock()


def test_it_is_the_clocks_as_long_as_that_runs(engine: Engine, host: SetClock) -> None:
    clock = DeletionClock(engine, host)
    for _ in range(5):
        assert clock.now() == host.now
        host.now += MINUTES


def test_years_ahead_count_only_after_months_and_not_once_they_are_corrected(
    engine: Engine, host: SetClock
) -> None:
    DeletionClock(engine, host).now()
    host.now += timedelta(days=4 * 365)
    for _ in range(6):  # an hour, of two processes, one of which is started anew each time
        host.now += MINUTES
        assert DeletionClock(engine, host).now() <= START + 6 * STEP
        DeletionClock(engine, host).now()
    host.now = START + timedelta(hours=2)
    assert DeletionClock(engine, host).now() == host.now


def test_a_real_pause_is_caught_up_with(engine: Engine, host: SetClock) -> None:
    clock = DeletionClock(engine, host)
    clock.now()
    host.now += timedelta(days=30)
    for _ in range(30 * 4):  # 20 hours
        host.now += MINUTES
        latest = clock.now()
    assert host.now - latest < timedelta(days=1)


def test_a_clock_that_is_behind_deletes_less(engine: Engine, host: SetClock) -> None:
    clock = DeletionClock(engine, host)
    clock.now()
    host.now -= timedelta(days=365)
    assert clock.now() == host.now


def test_an_upgrade_with_a_wrong_clock_deletes_nothing(engine: Engine, host: SetClock) -> None:
    """The first time that it is asked, only what is in the database says what time it is."""
    Audit(engine, host).write(COMMAND, "key_created", "key_1")
    host.now += timedelta(days=4 * 365)
    assert DeletionClock(engine, host).now() == START + STEP
