"""`opsin models`: what is in the store, and which version answers.

Reading and changing work on the store itself, so no server has to run; workers see a moved alias
within a second. Only a conversion needs TensorFlow, in a process of its own.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.output import (
    CommandError,
    answers,
    as_command_error,
    notes,
    plain_table,
    print_error,
    waiting,
)
from cli.settings import load
from contracts.errors import OpsinError
from models.store.derived import DERIVED_FORMATS, convert
from models.store.downloads import DownloadFormat, download
from models.store.store import Store

Model = Annotated[str, typer.Argument(help="A model's name.")]
Version = Annotated[int, typer.Argument(min=1, help="Its number.")]

app = typer.Typer()


@app.command("list")
def list_models() -> None:
    """Show every version, its aliases, network, classes and size."""
    store = _store()
    table = plain_table()
    for heading in ("model", "version", "aliases", "network", "classes", "made", "size"):
        right = heading in {"version", "classes", "size"}
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for model in store.models():
        aliases = store.aliases(model)
        for version in store.versions(model):
            try:
                manifest = store.manifest(model, version)
            except OpsinError as error:
                print_error(notes(), error.detail)
                continue
            names = ", ".join(name for name, number in aliases.items() if number == version)
            size = sum(record.size for record in manifest.files.values())
            table.add_row(
                *(model, str(version), names, escape(manifest.network)),
                "" if manifest.classes is None else str(manifest.classes),
                f"{manifest.created_at:%Y-%m-%d %H:%M}",
                f"{size / 1e6:,.1f} MB",
            )
        for version in store.quarantined(model):
            table.add_row(model, str(version), "[red]damaged, in quarantine[/]")
    if not table.rows:
        raise CommandError(
            "The store is empty. A worker imports the networks of OPSIN_MODELS when it starts."
        )
    answers().print(table)


@app.command()
def promote(
    model: Model,
    version: Version,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
) -> None:
    """Let an alias point to a version; to roll back, name an older one."""
    with as_command_error():
        before = _store().promote(model, version, alias)
    was = "new" if before is None else f"was version {before}"
    notes().print(f"[green]✓[/] {alias} of {model} is version {version} ({was})")


@app.command()
def delete(model: Model, version: Version) -> None:
    """Remove a version for good; refused while an alias points to it."""
    with as_command_error():
        _store().delete(model, version)
    notes().print(f"[green]✓[/] version {version} of {model} is deleted")


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="Default: all models.")] = None,
) -> None:
    """Compare all files with their digests; a damaged version goes to quarantine."""
    store = _store()
    with as_command_error():
        names = store.models() if model is None else [model]
        versions = [(name, version) for name in names for version in store.versions(name)]
        if not versions:
            raise CommandError(
                "There is no such version in the store; `opsin models list` shows all."
            )
        damaged = sum(not _is_sound(store, name, version) for name, version in versions)
    if damaged:
        raise CommandError(f"{damaged} of {len(versions)} versions are damaged.")


def _is_sound(store: Store, model: str, version: int) -> bool:
    with waiting(notes(), f"Reading {model} {version}"):
        problems = store.verify(model, version)
    if not problems:
        answers().print(f"[green]ok[/] {model} {version}")
        return True
    print_error(notes(), f"{model} {version} is in quarantine: {'; '.join(problems)}")
    if version in store.aliases(model).values():
        print_error(notes(), f"An alias points to it: opsin models promote {model} VERSION")
    return False


@app.command("download")
def download_version(
    model: Model,
    version: Annotated[str, typer.Argument(help="Its number, or an alias.")] = "champion",
    kind: Annotated[
        DownloadFormat,
        typer.Option("--format", help="All but the first two and labels are converted once."),
    ] = "saved_model",
    to: Annotated[
        Path | None, typer.Option(help="A file that does not exist yet, or a folder.")
    ] = None,
) -> None:
    """Write a version to a file."""
    store = _store()
    with as_command_error():
        number = store.resolve(model, version)
        if kind in DERIVED_FORMATS:
            with waiting(notes(), f"Converting {model} {number} to {kind}"):
                convert(store, model, number, kind)
        content = download(store, model, number, kind)
    path = to or Path(content.filename)
    if path.is_dir():
        path /= content.filename
    try:
        with path.open("xb") as file:
            for chunk in content.chunks:
                file.write(chunk)
    except OSError as error:
        raise CommandError(f"Cannot write {path} ({error.strerror}).") from None
    answers().print(str(path), markup=False)


def _store() -> Store:
    return Store(load().store_home)
