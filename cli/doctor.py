"""`opsin doctor`: prints what `cli.checks` finds, and whether something must be done."""

from rich.markup import escape
from rich.table import Table

from cli.checks import Check
from cli.checks import environment as environment_checks
from cli.checks import service as service_checks
from cli.console import answers, notes, waiting
from cli.failure import CommandError
from contracts.settings import Settings

_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


def examine(settings: Settings, *, deep: bool) -> None:
    """Checks everything and prints a line for each.

    Args:
        settings: What to check against.
        deep: Whether to load TensorFlow and ask it for its devices.

    Raises:
        CommandError: Something will not work as it is.
    """
    with waiting(notes(), "Looking around"):
        checks = [*environment_checks(settings, deep=deep), *service_checks(settings)]
    answers().print(_table(checks))
    failed = sum(check.state == "fail" for check in checks)
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
