"""What counts of a job's time: the time in which it runs."""

from pathlib import Path

from workers.jobs.context import RunTime


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_attempts_add_up_and_the_time_between_them_does_not(tmp_path: Path) -> None:
    clock = Clock()
    first = RunTime(tmp_path, clock)
    clock.now += 30
    first.note()
    clock.now += 5  # killed before it is noted again
    assert first.seconds == 35
    clock.now += 86_400  # nobody takes it for a day
    second = RunTime(tmp_path, clock)
    assert second.seconds == 30
    clock.now += 12
    second.note()
    assert RunTime(tmp_path, clock).seconds == 42


def test_a_note_that_is_spoilt_or_cannot_be_kept_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "run-seconds").write_text("much")
    assert RunTime(tmp_path, Clock()).seconds == 0
    nowhere = RunTime(tmp_path / "none", Clock())
    nowhere.note()
    assert nowhere.seconds == 0
