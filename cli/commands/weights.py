"""`opsin weights`: pull, list and verify the weight files of this machine."""

from rich.markup import escape
from rich.table import Table

from cli.commands.pulling import Bar, progress_display, pull_defaults
from cli.home import Home
from cli.output import CommandError, answers, complain, notes, waiting
from contracts.errors import NotFound
from contracts.settings import Settings
from models.weights.catalog import Weights, WeightsMissing


def pull(settings: Settings, names: list[str]) -> None:
    """Brings the named weights, or with no name what OPSIN_MODELS needs and the sample photos.

    Raises:
        CommandError: A named one could not be had; or with no name, no network could.
    """
    console = notes()
    Home(settings.home).prepare()
    if not names:
        pulled = pull_defaults(settings, console, again=True)
        pulled.warn(console)
        pulled.require_one()
        console.print(f"[green]✓[/] weights for {', '.join(pulled.networks)}")
        return
    weights = Weights.of(settings)
    failed = False
    with progress_display(console) as progress:
        for name in names:
            try:
                file = weights.pull(name, Bar(progress, name))
            except (WeightsMissing, NotFound) as error:
                complain(console, error.detail)
                failed = True
            else:
                console.print(f"[green]✓[/] {name} ({file.source})")
    if failed:
        raise CommandError("Not all weights are here.")


def show(settings: Settings) -> None:
    """Prints every set of weights, whether it is here, its size, licence and source."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "here", "size"):
        table.add_column(heading, justify="right" if heading == "size" else "left", no_wrap=True)
    table.add_column("content; licence and source", overflow="fold")
    for row in Weights.of(settings).rows():
        here = "[green]yes[/]" if row.present else "[yellow]no[/]"
        size = "" if row.size is None else f"{row.size / 1e6:,.1f} MB"
        detail = escape(f"{row.licence}, {row.source}")
        table.add_row(row.name, here, size, f"{escape(row.content)}\n[dim]{detail}[/]")
    answers().print(table)


def verify(settings: Settings, names: list[str]) -> None:
    """Reads weight files from end to end and compares their digests.

    Raises:
        CommandError: One is damaged; or a named one is missing; or there is none at all.
    """
    weights = Weights.of(settings)
    chosen = names or [row.name for row in weights.rows() if row.present or _damaged(row.reason)]
    if not chosen:
        raise CommandError("There are no weights here. `opsin weights pull` brings them.")
    console = answers()
    failed = False
    for name in chosen:
        try:
            with waiting(notes(), f"Reading {name}"):
                file = weights.verify(name)
        except (WeightsMissing, NotFound) as error:
            complain(notes(), error.detail)
            failed = True
        else:
            console.print(f"[green]ok[/] {name} {file.digest}")
    if failed:
        raise CommandError("Not all weights are sound.")


def _damaged(reason: str | None) -> bool:
    return reason is not None and "damaged" in reason
