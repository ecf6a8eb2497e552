"""The remaining time of a job that does not set one itself."""

import pytest

from workers.jobs.pace import Pace


def run(pace: Pace, start: float, fractions: list[float], seconds: float) -> float:
    """Progress at an even pace; the time afterwards."""
    for fraction in fractions:
        start += seconds
        pace.note(start, fraction, "dream")
    return start


def hundredths(low: int, high: int) -> list[float]:
    return [n / 100 for n in range(low, high + 1)]


def test_loading_libraries_says_nothing_about_the_pace() -> None:
    """A dream once waited nine minutes for them, and was then told to take an hour and a half."""
    pace = Pace()
    pace.note(0, 0, "start")
    pace.note(1, 0, "loading")
    assert pace.remaining(540, 0) is None
    now = run(pace, 540, hundredths(0, 10), 2)
    assert pace.remaining(now, 0.1) == pytest.approx(180)


def test_the_later_half_counts() -> None:
    pace = Pace()
    now = run(pace, 0, hundredths(0, 20), 60)  # the machine was busy
    now = run(pace, now, hundredths(21, 45), 2)  # and is free
    assert pace.remaining(now, 0.45) == pytest.approx(110, rel=0.2)


def test_many_reports_are_thinned_out() -> None:
    pace = Pace()
    now = run(pace, 0, [n / 10_000 for n in range(5_000)], 0.1)
    assert pace.remaining(now, 0.4999) == pytest.approx(500, rel=0.05)
    assert len(pace._samples) <= 64
