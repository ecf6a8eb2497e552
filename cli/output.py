"""Where commands write: answers to stdout, all else to stderr, colors only on a terminal.

The one way a command says that it cannot go on: a plain line, and an exit code.
"""

import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


def answers() -> Console:
    """For what was asked for; safe to pipe."""
    return Console(soft_wrap=True, highlight=False)


def notes() -> Console:
    """For progress and faults."""
    return Console(stderr=True, soft_wrap=True, highlight=False)


def warn(console: Console, message: str) -> None:
    """A yellow mark and a line. File names may hold brackets, which are not markup."""
    console.print(f"[yellow]![/] {escape(readable(console, message, indent=2))}")


def complain(console: Console, message: str) -> None:
    """One red fault."""
    console.print(f"[red]{escape(readable(console, message))}[/]")


def readable(console: Console, message: str, *, indent: int = 0) -> str:
    """The message broken between words on a terminal; one line as it is in a log or a pipe.

    Args:
        console: Where it goes.
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


@contextmanager
def waiting(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """A spinner while something takes long; plain lines where there is no terminal.

    Yields:
        A call that says what is waited for by now.
    """
    if console.is_terminal:
        with console.status(escape(what)) as status:
            yield lambda now: status.update(escape(now))
        return
    said = [what]
    console.print(f"{what} …", markup=False)

    def tell(now: str) -> None:
        if now != said[-1]:
            said.append(now)
            console.print(f"{now} …", markup=False)

    yield tell


@contextmanager
def muffled() -> Iterator[Console]:
    """Keeps the lines that C++ libraries write to stderr away from the terminal.

    TensorFlow tells of its processor and missing GPU there, before Python could ask it not to.

    Yields:
        A console for notes that still reaches the real stderr.
    """
    real = os.dup(2)
    with open(real, "w") as terminal, open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a number)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield Console(file=terminal, soft_wrap=True, highlight=False)
        finally:
            os.dup2(real, 2)


class CommandError(Exception):
    """Shown in red on stderr without a stack trace; it says what to do about it.

    Args:
        message: What went wrong and what helps, for the person at the terminal.
        exit_code: 1 for a failure, 2 for a wrong call or setting.
    """

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
