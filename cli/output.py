r"""What commands print: results to stdout, everything else to stderr, colors only on a terminal.

`CommandError` is the one way in which a command fails: a plain line and an exit code. Lists are in
`cli.tables`. A file name that is not UTF-8 is printed with its odd bytes as `\xe9`.
"""

import errno
import functools
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.markup import escape
from rich.segment import Segment

from cli.drafts import draft_of, remove_left_over
from cli.streams import quiet, shown
from contracts.errors import OpsinError
from contracts.printable import printable

# An array of numbers, as json.dumps indents it; a line break is never part of a string.
_NUMBERS = re.compile(r"\[\n([-+.\deE,\s]+)\]")


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


class Output(Console):
    """A console on which a foreign text, such as a label or a server's words, is only text.

    Control characters in it become escapes: they could otherwise clear the screen, set the title or
    hide what follows. Those of Rich itself, such as colors, are not part of a text.
    """

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """The text of a buffer; Rich has no public place for this."""
        return super()._render_buffer(
            part if part.control else Segment(printable(part.text), part.style) for part in buffer
        )


class Notes(Output):
    """A console for what is not a command's result: on a full disk it is lost, and no more.

    `opsin up` often writes to the disk of its home, and must outlive the moment when that is full.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """As Rich's."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise


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
    return Output(soft_wrap=True, highlight=False)


def notes() -> Console:
    """For progress and warnings, which `--quiet` suppresses."""
    return Notes(stderr=True, soft_wrap=True, highlight=False, quiet=quiet.get())


def errors() -> Console:
    """For errors, which are always printed."""
    return Output(stderr=True, soft_wrap=True, highlight=False)


def print_fields(console: Console, *fields: str) -> None:
    """Print a line of tab-separated fields for a program; Rich would turn the tabs into spaces."""
    if not console.quiet:
        console.file.write("\t".join(fields) + "\n")


def print_path(path: Path) -> None:
    """Print a path as a result: to a program as it is, to a person in printable characters."""
    console = answers()
    if console.is_terminal:
        console.print(shown(path), markup=False)
    else:
        print_fields(console, str(path))


def print_json(content: Any) -> None:
    """Print JSON, valid UTF-8 whatever names it holds; a vector is one line, not a thousand."""
    text = json.dumps(_clean(content), indent=2, ensure_ascii=False)
    text = _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text)
    answers().print(text, markup=False)


@contextmanager
def written_file(target: Path, *, replace: bool = True, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Write a file that appears when it is complete; of one that fails, nothing is left.

    Args:
        target: What is no plain file, such as `/dev/stdout` or a pipe, is written as it is.
        replace: Whether there may be such a file already.
        mode: Of a new file, less the umask.

    Raises:
        CommandError: It cannot be written.
    """
    try:
        if not replace and os.path.lexists(target):
            raise CommandError(f"{shown(target)} exists already; choose another name.")
        target = target.resolve()
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
        _remove_left_over(target.parent)
        with draft_of(target, mode=mode) as (draft, file):
            yield file
            file.close()
            if target.exists():
                shutil.copymode(target, draft)
            draft.replace(target)
    except OSError as error:
        raise CommandError(f"{shown(target)} cannot be written ({error.strerror}).") from None


@functools.cache  # a command may write thousands of files to one folder
def _remove_left_over(folder: Path) -> None:
    remove_left_over(folder)


def note_replaced(target: Path) -> None:
    """Say that a file which a command chose by itself is there, before it is written again."""
    if target.exists():
        notes().print(f"{shown(os.fspath(target))} is replaced.", markup=False)


def warn(console: Console, message: str) -> None:
    """Print a yellow mark and a line. File names may hold brackets, which are not markup."""
    console.print(f"[yellow]![/] {escape(wrap(console, _printable(message), indent=2))}")


def print_error(console: Console, message: str) -> None:
    """Print a line in red."""
    console.print(f"[red]{escape(wrap(console, _printable(message)))}[/]")


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; without a terminal, `--yes` is the answer.

    Args:
        yes: Whether the command line answers already.

    Raises:
        CommandError: The answer is no, or nobody can answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(
            f"{question} This is no terminal, so nothing was done. Add --yes to do it without "
            "being asked.",
            exit_code=2,
        )
    errors().print(f"{escape(shown(question))} [dim]\\[y/N][/] ", end="")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise CommandError("Nothing was done.")


def confirm_on_terminal(question: str, *, yes: bool) -> None:
    """As `confirm`, but scripts, which had no `--yes` for it in earlier releases, are not asked."""
    confirm(question, yes=yes or not sys.stdin.isatty())


def _clean(content: Any) -> Any:
    """The same JSON, with bytes of names that are not UTF-8 written as escapes."""
    match content:
        case str():
            return content.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        case dict():
            return {_clean(name): _clean(value) for name, value in content.items()}
        case list() | tuple():
            return [_clean(value) for value in content]
    return content


def _printable(message: str) -> str:
    return "\n".join(shown(line) for line in message.splitlines())


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


def clock_time(seconds: float) -> str:
    """A duration as a clock shows it: 2:05, or 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 image, 2 images, 3 classes."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


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
    with (
        open(real, "w", errors="backslashreplace") as terminal,  # noqa: PTH123 (a number)
        open(os.devnull, "w") as null,  # noqa: PTH123
    ):
        os.dup2(null.fileno(), 2)
        try:
            yield Output(file=terminal, soft_wrap=True, highlight=False, quiet=quiet.get())
        finally:
            os.dup2(real, 2)


def output_path(out: Path | None, name: str) -> Path:
    """The file of a result: `out`, or `name` in the folder `out` or in the working folder."""
    if out is None:
        return Path(name)
    return out / name if out.is_dir() else out
