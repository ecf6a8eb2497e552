"""Where commands write: answers to stdout, all else to stderr, colours only on a terminal."""

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
    """One yellow line. File names may hold brackets, which are not markup."""
    console.print(f"[yellow]![/] {escape(message)}")


def complain(console: Console, message: str) -> None:
    """One red fault."""
    console.print(f"[red]{escape(message)}[/]")


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
