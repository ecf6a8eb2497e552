"""Lists on terminals of any width, and in pipes."""

import io
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console
from rich.text import Text

from cli.tables import Column, local_time, print_list

JOB = "job_-Ehh1zDLchBJndeSBjkpy1A2"
COLUMNS = [Column("job", "id"), Column("name"), Column("state"), Column("size", "number")]
ROWS = [
    (JOB, "a name that is rather long and goes on", Text("running", "cyan"), "12.5 MB"),
    ("job_2", "短い名前", "failed", "1,000.0 MB"),
]


def printed(width: int, *, terminal: bool) -> list[str]:
    screen = Console(
        file=io.StringIO(), force_terminal=terminal, width=width, no_color=True, soft_wrap=True
    )
    print_list(COLUMNS, ROWS, screen)
    assert isinstance(screen.file, io.StringIO)
    return [Text.from_ansi(line).plain for line in screen.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_an_id_is_whole_on_a_terminal_of_any_width(width: int) -> None:
    heading, first, second = printed(width, terminal=True)
    assert JOB in first
    assert "job_2" in second
    longest = max(len(line) for line in (heading, first, second))
    assert longest <= max(width, len(JOB))


def test_on_a_wide_terminal_everything_is_whole_and_numbers_are_aligned() -> None:
    heading, first, second = printed(120, terminal=True)
    assert "a name that is rather long and goes on" in first
    assert first.endswith("12.5 MB")
    assert second.endswith("1,000.0 MB")
    assert heading.endswith("size")


@pytest.mark.parametrize(("width", "shown"), [(60, "2026-11-29 17:02"), (50, "2026-11-29")])
def test_a_time_is_shortened_to_its_date(width: int, shown: str) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, no_color=True)
    columns = [Column("model", "id"), Column("network"), Column("created", "time")]
    rows = [("efficientnet_lite0", "efficientnet_lite0", "2026-11-29 17:02")]
    print_list(columns, rows, screen)
    assert isinstance(screen.file, io.StringIO)
    line = Text.from_ansi(screen.file.getvalue().splitlines()[1]).plain
    assert line.split("  ")[1:] == ["efficientnet_lite0", shown]


def test_a_time_is_left_out_before_a_number() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=40, no_color=True)
    columns = [Column("job", "id"), Column("created", "time"), Column("progress", "number")]
    print_list(columns, [(JOB, "2026-11-29 17:02", "9%, 0:05")], screen)
    assert isinstance(screen.file, io.StringIO)
    heading, line = (Text.from_ansi(text).plain for text in screen.file.getvalue().splitlines())
    assert heading.split() == ["job", "progress"]
    assert line.split() == [JOB, "9%,", "0:05"]


def test_times_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        for moment in ("2026-11-29T17:02:30Z", datetime(2026, 11, 29, 17, 2, tzinfo=UTC)):
            assert local_time(moment) == "2026-11-30 02:02"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_pipe_gets_whole_fields_between_tabs() -> None:
    heading, first, second = printed(20, terminal=False)
    assert heading == "job\tname\tstate\tsize"
    assert first.split("\t") == [JOB, str(ROWS[0][1]), "running", "12.5 MB"]
    assert second.split("\t") == list(ROWS[1])


def test_a_field_cannot_break_its_line() -> None:
    screen = Console(file=io.StringIO(), force_terminal=False)
    print_list(
        [Column("name", "id"), Column("size")], [("a\tb\nc\x1b[31m\udce9", "[b]1[/]")], screen
    )
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue().splitlines()[1] == r"a\tb\nc\x1b[31m\xe9" + "\t[b]1[/]"
