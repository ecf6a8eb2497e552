import io

from rich.console import Console

from cli.output import warn, wrap

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
