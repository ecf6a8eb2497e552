import contextlib
import errno
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from cli.output import (
    CommandError,
    Output,
    answers,
    notes,
    print_json,
    print_path,
    warn,
    wrap,
    written_file,
)

PATH = "/a/very/long/path/that-must-stay/in-one-piece"


def console(*, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=30, soft_wrap=True, highlight=False
    )


def test_a_terminal_line_breaks_only_between_words() -> None:
    text = wrap(console(terminal=True), f"One line and {PATH} and some more of it.\n  log")
    assert text.splitlines() == ["One line and", PATH, "and some more of it.", "  log"]


def test_a_pipe_gets_one_line_for_each_message() -> None:
    message = f"One line and {PATH} and more."
    assert wrap(console(terminal=False), message) == message


def test_wrapped_lines_after_a_mark_are_indented() -> None:
    screen = console(terminal=True)
    warn(screen, "The weights [of this] are missing, and so is more.")
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert lines[1].startswith("  ")
    assert "[of this]" in lines[0] + lines[1]


ATTACK = "cat\x1b]0;title\x07\x1b[2J\x9b2J\u202e.png"


@pytest.mark.parametrize("terminal", [True, False])
def test_no_foreign_text_reaches_the_terminal_as_a_command(terminal: bool) -> None:
    """Labels, names and a server's words; only Rich's own colors and movements are commands."""
    color = "standard" if terminal else None
    screen = Output(
        file=io.StringIO(), force_terminal=terminal, width=200, color_system=color, highlight=False
    )
    screen.print(f"[red]{escape(ATTACK)}[/]\n  two", ATTACK)
    table = Table("name")
    table.add_row(ATTACK)
    with Live(table, console=screen, auto_refresh=False):
        screen.print({"label": ATTACK})
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert r"cat\x1b]0;title" in text
    assert not {"\x07", "\x9b", "\u202e"} & set(text)
    assert "\x1b]" not in text
    assert "\x1b[2J" not in text
    assert ("\x1b[31m" in text) == terminal
    assert "\n  two" in text


def test_the_consoles_of_commands_print_no_foreign_commands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers().print(escape(ATTACK))
    print_path(tmp_path / "odd\x1bname")  # for a program, as it is
    first, second = capsys.readouterr().out.splitlines()
    assert (first[:9], second) == (r"cat\x1b]0", f"{tmp_path}/odd\x1bname")


def test_a_vector_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"name": "[\n 1,\n 2]", "vector": [0.5, -1e-07, 3], "rows": [[1, 2], []]}
    print_json(content)
    printed = capsys.readouterr().out
    assert json.loads(printed) == content
    assert '"vector": [0.5, -1e-07, 3],' in printed
    assert printed.count("\n") == 8


def test_a_file_that_cannot_be_written_in_full_is_left_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "heatmap.png"
    for before in (b"", b"the earlier one"):
        if before:
            target.write_bytes(before)
            target.chmod(0o640)
        with pytest.raises(CommandError, match="No space left"):
            write_a_part(target)
        assert [path.read_bytes() for path in tmp_path.iterdir()] == ([before] if before else [])
    with written_file(target) as file:
        file.write(b"whole")
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"whole", 0o640)


def write_a_part(target: Path) -> None:
    with written_file(target) as file:
        file.write(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_pipe_and_a_link_are_written_and_not_replaced(tmp_path: Path) -> None:
    link, target, pipe = tmp_path / "link", tmp_path / "target", tmp_path / "pipe"
    link.symlink_to(target)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (pipe, link):
        with written_file(path) as file:
            file.write(b"content")
    assert pipe.is_fifo()
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert link.is_symlink()
    assert target.read_bytes() == b"content"
    with pytest.raises(CommandError, match="exists already"), written_file(link, replace=False):
        pass


def test_a_note_that_a_full_disk_does_not_take_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        for _ in range(2):
            notes().print("The worker has ended and is started again.")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
