"""`opsin doctor`: prints what `cli.checks` finds, and whether something must be done."""

from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from cli import checks as looks
from cli.checks import Check
from cli.output import CommandError, answers, notes, waiting
from contracts.settings import Settings

_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


def examine(settings: Settings, *, deep: bool, as_json: bool = False) -> None:
    """Checks everything and prints a line for each.

    Args:
        settings: What to check against.
        deep: Whether to load TensorFlow and ask it for its devices, and to read all versions.
        as_json: Whether to print it for a program.

    Raises:
        CommandError: Something will not work as it is.
    """
    with waiting(notes(), "Looking around"):
        checks = [
            *looks.packages(),
            *looks.home(settings),
            *looks.store(settings, deep=deep),
            *looks.environment(settings, deep=deep),
            *looks.service(settings),
        ]
    failed = sum(check.state == "fail" for check in checks)
    if as_json:
        told = {"failed": failed, "checks": [asdict(check) for check in checks]}
        answers().print_json(data=told)
    else:
        answers().print(_table(checks))
    if failed:
        raise CommandError(f"{failed} of {len(checks)} checks failed.")


def _table(checks: list[Check]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("state", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for check in checks:
        detail = escape(check.detail) + (f"\n[dim]→ {escape(check.help)}[/]" if check.help else "")
        table.add_row(_MARKS[check.state], escape(check.name), detail)
    return table
