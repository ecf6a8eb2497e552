"""What `opsin up` prints once it is ready: the address, the models and a request that works."""

import contextlib
import shlex
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.access import MAKE_CLI_KEY, Access, access, cli_key_file, locked_text
from cli.clients.api import Api
from cli.home import Home
from cli.output import warn
from cli.settings import address
from contracts.errors import OpsinError
from contracts.inference.registry import ModelInfo
from contracts.settings import Settings

_COLORS = {"ready": "green", "loading": "yellow", "unavailable": "red"}


def print_banner(settings: Settings, home: Home, console: Console) -> None:
    """Print what runs where, and how to use and stop it."""
    models = Api(settings).models()
    found = _access(settings)
    left = [model.name for model in models if model.state == "loading"]
    more = f"; {', '.join(left)} still loading" if left else ""
    console.print(f"\n[bold green]Opsin is ready[/] at {address(settings)}{more}\n")
    if models:
        console.print(models_table(models))
        for model in models:
            if model.reason:
                warn(console, f"{model.name}: {model.reason}")
        console.print()
    for heading, line in (
        ("Try", curl_line(settings, home, key=_key_of(settings, found))),
        ("Console", f"{address(settings)}/ (everything in a browser)"),
        ("Key", _key_line(settings, found)),
        ("Docs", f"{address(settings)}/docs"),
        ("Logs", f"{shorten(home.logs)}/"),
        ("Stop", "Ctrl-C"),
    ):
        console.print(f"[bold]{heading:7}[/] {escape(line)}")


def models_table(models: list[ModelInfo]) -> Table:
    """The models, and what each serves."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "state", "serves"):
        table.add_column(heading, no_wrap=True)
    for model in models:
        # Without its classifier a network still embeds: not ready, but not unavailable either.
        partly = model.state == "unavailable" and model.operations
        state = "[yellow]partly[/]" if partly else f"[{_COLORS[model.state]}]{model.state}[/]"
        # A study is a part of every explanation, and not asked for by that name.
        serves = [name for name in model.operations if name != "study"]
        table.add_row(escape(model.name), state, ", ".join(serves) or "-")
    return table


def curl_line(settings: Settings, home: Home, *, key: str | None) -> str:
    """A request that works as printed, from the working directory.

    Args:
        key: What the shell replaces by the key; None if the service requires none.
    """
    sample = home.samples / "cat.png"
    image = shorten(sample) if sample.exists() else "photo.jpg"
    header = f'-H "Authorization: Bearer {key}" ' if key else ""
    return f"curl {header}-F {shlex.quote(f'image=@{image}')} {address(settings)}/v1/classify"


def _access(settings: Settings) -> Access:
    """Who is let in; a database that fails just now is no reason not to start."""
    from sqlalchemy.exc import SQLAlchemyError  # slow to load

    try:
        return access(settings)
    except (OpsinError, SQLAlchemyError):
        return Access("keyed")


def _key_of(settings: Settings, found: Access) -> str | None:
    if found.state == "open":
        return None
    if found.cli_key is None:
        return "$OPSIN_API_KEY"
    return f"$(cat {shlex.quote(str(shorten(cli_key_file(settings.home))))})"


def _key_line(settings: Settings, found: Access) -> str:
    """Who is let in, and how to change that."""
    if found.state == "open":
        return "none needed on this machine, until `opsin keys create` makes the first"
    if found.state == "locked":
        return locked_text(settings)
    if settings.api_key is not None:
        return "required; OPSIN_API_KEY is one with all scopes"
    if found.cli_key is None:
        return f"required, and the commands here have none. {MAKE_CLI_KEY}"
    return f"required; the commands here use {shorten(cli_key_file(settings.home))}"


def shorten(path: Path) -> Path:
    """The path relative to the working directory, if it lies in there."""
    with contextlib.suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path
