"""`opsin doctor` and `opsin tensorboard`."""

import importlib.util
import os
import sys
import types
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.output import CommandError, answers, notes, print_json, waiting
from cli.settings import load
from cli.tables import Column, print_list

if TYPE_CHECKING:
    from cli.checks import Check

_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}


def doctor(
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also load TensorFlow, and read every file of the store."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all results as JSON.")] = False,
) -> None:
    """Check this machine and the installation; suggest fixes.

    The exit status is 1 if something will not work.
    """
    from cli import checks  # not for TensorBoard

    settings = load()
    with waiting(notes(), "Checking"):
        results = [
            *checks.packages(),
            *checks.home(settings),
            *checks.face_keys(settings),
            *checks.store(settings, deep=deep),
            *checks.environment(settings, deep=deep),
            *checks.service(settings),
        ]
    failed = sum(check.state == "fail" for check in results)
    if as_json:
        print_json({"failed": failed, "checks": [asdict(check) for check in results]})
    else:
        _print_checks(results)
    if failed:
        raise CommandError(f"{failed} of {len(results)} checks failed.")


def tensorboard(
    job: Annotated[str | None, typer.Argument(help="Default: all trainings.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 6006,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. TensorBoard asks for no key: all who reach it can read it."
        ),
    ] = "127.0.0.1",
    wait: Annotated[
        bool, typer.Option("--wait", help="Start even if there are no logs yet.")
    ] = False,
) -> None:
    """Open TensorBoard on the logs of trainings."""
    if importlib.util.find_spec("tensorboard") is None:
        raise CommandError("TensorBoard is not installed: pip install 'opsin[worker]'.")
    logs = load().event_logs_home
    known = sorted(path.name for path in logs.iterdir()) if logs.is_dir() else []
    if not known and not wait:
        raise CommandError("There are no logs yet; a training writes them as it runs.")
    if job is not None and job not in known:
        raise CommandError(f"There is no log of '{job}'. Known: {', '.join(known[-5:])}.")
    folder = logs / job if job else logs
    notes().print(f"TensorBoard at http://{host}:{port}; Ctrl-C stops it.")
    program = f"from {__name__} import run_tensorboard; run_tensorboard()"
    # It replaces this process: it gets the terminal's signals, and nothing is left behind.
    os.execv(  # noqa: S606  this Python, with arguments of our own
        sys.executable,
        [
            *(sys.executable, "-P", "-c", program, "--logdir", str(folder)),
            *("--host", host, "--port", str(port)),
            # Logs are read by TensorBoard's own server program: fast, with little memory.
            *("--load_fast", "auto", "--reload_multifile", "true"),
        ],
    )


def run_tensorboard() -> None:
    """Run TensorBoard without TensorFlow, which it would load only to handle file names.

    TensorFlow takes half a minute on a busy machine and half a gigabyte. If a module of this name
    exists, TensorBoard uses its own small copy of the few functions it needs
    (`tensorboard.compat.tf`).
    """
    sys.modules["tensorboard.compat.notf"] = types.ModuleType("tensorboard.compat.notf")
    from tensorboard.main import run_main  # slow to load

    run_main()


def _print_checks(checks: "list[Check]") -> None:
    """A finding is the answer, so it is never shortened: it continues on further lines."""
    console = answers()
    if not console.is_terminal:
        columns = [Column(heading, "id") for heading in ("state", "name", "detail", "help")]
        print_list(columns, [(c.state, c.name, c.detail, c.help) for c in checks], console)
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("state", no_wrap=True)
    table.add_column("name", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for check in checks:
        detail = escape(check.detail) + (f"\n[dim]→ {escape(check.help)}[/]" if check.help else "")
        table.add_row(_MARKS[check.state], escape(check.name), detail)
    console.print(table)
