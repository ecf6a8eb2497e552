"""`opsin models`: what is in the store, and which version answers.

Reading and changing work on the store itself, so no server has to run; workers see a moved alias
within a second. Only a conversion needs TensorFlow, in a process of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from cli.announcing import announce_change
from cli.commands.evaluate import evaluate
from cli.commands.layers import layers
from cli.options import Json, Out, To, Yes
from cli.output import (
    CommandError,
    answers,
    as_command_error,
    confirm,
    counted,
    errors,
    notes,
    print_error,
    print_json,
    print_path,
    waiting,
    warn,
    written_file,
)
from cli.settings import load
from cli.startup import open_database, using_home
from cli.tables import Column, local_time, print_list
from contracts.audit import Action
from contracts.errors import OpsinError
from contracts.inference.manifest import Manifest
from models.store.derived import DERIVED_FORMATS, convert
from models.store.downloads import DownloadFormat, download
from models.store.store import Store

Model = Annotated[str, typer.Argument(help="A model's name.")]
Version = Annotated[int, typer.Argument(min=1, help="Its number.")]

app = typer.Typer()
app.command()(evaluate)
app.command("summary")(layers)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """Show every version, its aliases, network, classes and size."""
    store = _store()
    items = [item for model in store.models() for item in _versions(store, model)]
    if as_json:
        print_json({"items": items})
        return
    if not items:
        raise CommandError(
            "The store is empty. A worker imports the networks of OPSIN_MODELS when it starts."
        )
    columns = [
        *(Column("model", "id"), Column("version", "number"), Column("aliases")),
        *(Column("network"), Column("classes", "number"), Column("created", "time")),
        Column("size", "number"),
    ]
    print_list(columns, [_row(item) for item in items])


@app.command()
def show(
    model: Model,
    version: Annotated[str, typer.Argument(help="Its number, or an alias.")] = "champion",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Show a version: what it was trained on, and how often it was right."""
    store = _store()
    with as_command_error():
        manifest = store.manifest(model, store.resolve(model, version))
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    names = [name for name, number in store.aliases(model).items() if number == manifest.version]
    item = _item(model, manifest.version, names, manifest)
    columns = [Column("field", "id"), Column("value", "id")]
    rows = [("model", model), ("version", str(manifest.version)), *_facts(item, manifest)]
    print_list(columns, [(name, value) for name, value in rows if value])


def _facts(item: dict[str, Any], manifest: Manifest) -> Iterator[tuple[str, str]]:
    origin, served = manifest.provenance, manifest.served
    yield "aliases", ", ".join(item["aliases"])
    yield "network", manifest.network
    yield "classes", "" if manifest.classes is None else f"{manifest.classes:,}"
    yield "created", local_time(item["created_at"])
    yield "size", f"{item['size'] / 1e6:,.1f} MB"
    for split in ("train", "validation", "test"):
        accuracy = manifest.metrics.get(f"{split}_accuracy")
        yield f"{split} accuracy", "" if accuracy is None else f"{accuracy:.1%}"
    if served is not None:
        pictures = f"{counted(served.pictures, 'image')} of the {served.split} split"
        yield "as served", f"{served.accuracy:.1%} of {pictures}, by {served.runtime}"
    yield "dataset", origin.dataset_digest or ""
    yield "job", origin.job_id or ""
    yield "weights", "" if origin.weights is None else origin.weights.name


def _versions(store: Store, model: str) -> Iterator[dict[str, Any]]:
    """What is said about each version of a model."""
    aliases = store.aliases(model)
    for version in store.versions(model):
        try:
            manifest = store.manifest(model, version)
        except OpsinError as error:
            print_error(errors(), error.detail)
            continue
        names = [name for name, number in aliases.items() if number == version]
        yield _item(model, version, names, manifest)
    for version in store.quarantined(model):
        yield {"model": model, "version": version, "state": "quarantined"}


def _item(model: str, version: int, aliases: list[str], manifest: Manifest) -> dict[str, Any]:
    return {
        "model": model,
        "version": version,
        "state": "published",
        "aliases": aliases,
        "network": manifest.network,
        "classes": manifest.classes,
        "created_at": manifest.created_at.isoformat(),
        "size": sum(record.size for record in manifest.files.values()),
    }


def _row(item: dict[str, Any]) -> tuple[str | Text, ...]:
    start = (item["model"], str(item["version"]))
    if item["state"] == "quarantined":
        return (*start, Text("damaged, in quarantine", "red"))
    return (
        *(*start, ", ".join(item["aliases"]), item["network"]),
        "" if item["classes"] is None else str(item["classes"]),
        local_time(item["created_at"]),
        f"{item['size'] / 1e6:,.1f} MB",
    )


@app.command()
def promote(
    model: Model,
    version: Version,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
) -> None:
    """Point an alias to a version; to roll back, name an older version."""
    with _changing_store() as store:
        before = store.promote(model, version, alias)
    announce_change(load(), "models")
    if before == version:
        notes().print(f"[green]✓[/] {alias} of {model} already is version {version}")
        return
    _record("alias_set", f"{model}/{version} {alias}")
    was = "new" if before is None else f"was version {before}"
    notes().print(f"[green]✓[/] {alias} of {model} is version {version} ({was})")


@app.command()
def delete(model: Model, version: Version, yes: Yes = False) -> None:
    """Remove a version for good; refused while an alias points to it."""
    with _changing_store() as store:
        store.manifest(model, version)  # before the question: it must exist
        confirm(f"Delete version {version} of {model} for good?", yes=yes)
        store.delete(model, version)
    announce_change(load(), "models")
    _record("version_deleted", f"{model}/{version}")
    notes().print(f"[green]✓[/] version {version} of {model} is deleted")


def _record(action: Action, subject: str) -> None:
    """Add a line to the audit log. The store needs no database, so there may be none."""
    settings = load()
    if settings.database_url is None and not (settings.home / "opsin.db").exists():
        return
    from database.audit import COMMAND, Audit  # SQLAlchemy

    try:
        with open_database(settings) as engine:
            Audit(engine, lambda: datetime.now(UTC)).write(COMMAND, action, subject)
    except CommandError as error:
        warn(notes(), f"This is not in the audit log: {error}")


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="Default: all models.")] = None,
) -> None:
    """Compare all files with their digests; a damaged version goes to quarantine."""
    with _changing_store() as store:  # a damaged version is moved
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
    try:
        with waiting(notes(), f"Reading {model} {version}"):
            problems = store.verify(model, version)
    except OSError as error:
        raise CommandError(
            f"{model} {version} cannot be read: {error.strerror}. It stays where it is."
        ) from None
    if not problems:
        answers().print(f"[green]ok[/] {model} {version}")
        return True
    print_error(errors(), f"{model} {version} is in quarantine: {'; '.join(problems)}")
    if version in store.aliases(model).values():
        print_error(errors(), f"An alias points to it: opsin models promote {model} VERSION")
    return False


@app.command("download")
def download_version(
    model: Model,
    version: Annotated[str, typer.Argument(help="Its number, or an alias.")] = "champion",
    kind: Annotated[
        DownloadFormat,
        typer.Option("--format", help="All but the first two and labels are converted once."),
    ] = "saved_model",
    out: Out = None,
    to: To = None,
) -> None:
    """Write a version to a file that does not exist yet."""
    with _changing_store() as store:  # a conversion is kept there
        number = store.resolve(model, version)
        if kind in DERIVED_FORMATS:
            with waiting(notes(), f"Converting {model} {number} to {kind}"):
                convert(store, model, number, kind)
        content = download(store, model, number, kind)
    path = out or to or Path(content.filename)
    if path.is_dir():
        path /= content.filename
    with written_file(path, replace=False) as file:
        for chunk in content.chunks:
            file.write(chunk)
    print_path(path)


def _store() -> Store:
    return Store(load().store_home)


@contextmanager
def _changing_store() -> Iterator[Store]:
    settings = load()
    with as_command_error(), using_home(settings):
        yield Store(settings.store_home)
