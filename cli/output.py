"""What commands print: results to stdout, everything else to stderr, colors only on a terminal.

`CommandError` is the one way in which a command fails: a plain line and an exit code.
"""

import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts.errors import OpsinError


class CommandError(Exception):
    """Shown in red on stderr, without a stack trace.

    Args:
        message: What went wrong and what helps, for the person at the terminal.
        exit_code: 1 for a failure, 2 for a wrong call or setting.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


@contextmanager
def as_command_error() -> Iterator[None]:
    """Turn a domain error into the command's one line.

    Raises:
        CommandError: The block raised an `OpsinError`.
    """
    try:
        yield
    except OpsinError as error:
        raise CommandError(error.detail) from None


def answers() -> Console:
    """For the results of a command; safe to pipe."""
    return Console(soft_wrap=True, highlight=False)


def notes() -> Console:
    """For progress, warnings and errors."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def warn(console: Console, message: str) -> None:
    """Print a yellow mark and a line. File names may hold brackets, which are not markup."""
    console.print(f"[yellow]![/] {escape(wrap(console, message, indent=2))}")


def print_error(console: Console, message: str) -> None:
    """Print a line in red."""
    console.print(f"[red]{escape(wrap(console, message))}[/]")


def wrap(console: Console, message: str, *, indent: int = 0) -> str:
    """Break a message between words on a terminal; a log or a pipe gets it unchanged.

    Args:
        console: Where it will be printed.
        message: One line or several, which stay apart.
        indent: Columns to leave free at the left; the first line is expected to use its own.
    """
    if not console.is_terminal:
        return message
    # A path, an address or an option stays whole, so that it can be copied.
    wrapper = textwrap.TextWrapper(
        console.width - indent, break_long_words=False, break_on_hyphens=False
    )
    lines = [part for line in message.splitlines() for part in wrapper.wrap(line) or [""]]
    return f"\n{' ' * indent}".join(lines)


def plain_table(*headings: str, right: tuple[str, ...] = (), fold: bool = False) -> Table:
    """A table without lines.

    Args:
        headings: Of the columns.
        right: The headings of columns with numbers.
        fold: Whether long cells are broken rather than shortened.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            overflow="fold" if fold else "ellipsis",
        )
    return table


def clock_time(seconds: float) -> str:
    """A duration as a clock shows it: 2:05, or 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def waiting(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """A spinner while something takes long; plain lines where there is no terminal.

    Yields:
        A function that changes the text.
    """
    if console.is_terminal:
        with console.status(escape(what)) as status:
            yield lambda text: status.update(escape(text))
        return
    printed = what
    console.print(f"{what} …", markup=False)

    def update(text: str) -> None:
        nonlocal printed
        if text != printed:
            printed = text
            console.print(f"{text} …", markup=False)

    yield update


@contextmanager
def suppress_logs() -> Iterator[Console]:
    """Keep the lines that C++ libraries write to stderr away from the terminal.

    TensorFlow reports its processor and the missing GPU there before Python could stop it.

    Yields:
        A console for notes that still reaches the real stderr.
    """
    real = os.dup(2)
    with open(real, "w") as terminal, open(os.devnull, "w") as null:  # noqa: PTH123 (a number)
        os.dup2(null.fileno(), 2)
        try:
            yield Console(file=terminal, soft_wrap=True, highlight=False)
        finally:
            os.dup2(real, 2)
