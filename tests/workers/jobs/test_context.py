"""The running time of a job over its attempts."""

from pathlib import Path

from workers.jobs.context import ElapsedTime


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_running_time_is_counted(tmp_path: Path) -> None:
    clock = Clock()
    first = ElapsedTime(tmp_path, clock)
    clock.now += 30
    first.save()
    clock.now += 5  # killed before it is saved again
    assert first.seconds == 35
    clock.now += 86_400  # the next attempt starts a day later
    second = ElapsedTime(tmp_path, clock)
    assert second.seconds == 30
    clock.now += 12
    second.save()
    assert ElapsedTime(tmp_path, clock).seconds == 42


def test_file_that_is_damaged_or_not_writable_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "run-seconds").write_text("much")
    assert ElapsedTime(tmp_path, Clock()).seconds == 0
    nowhere = ElapsedTime(tmp_path / "none", Clock())
    nowhere.save()
    assert nowhere.seconds == 0
