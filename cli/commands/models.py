"""`opsin models`: what is in the store, and who answers.

Reading and changing go to the store itself, so they work with no server running; workers see a
moved alias within a second. Only a conversion needs TensorFlow, in a process of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from rich.markup import escape
from rich.table import Table

from cli.output import CommandError, answers, complain, notes, waiting
from contracts.errors import OpsinError
from contracts.settings import Settings
from models.store.derived import convert
from models.store.downloads import DownloadFormat, download
from models.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")


def show(settings: Settings) -> None:
    """Prints every version, its aliases, network, classes, time and size."""
    store = Store(settings.store_home)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "version", "aliases", "network", "classes", "made", "size"):
        right = heading in {"version", "classes", "size"}
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for model in store.models():
        aliases = store.aliases(model)
        for version in store.versions(model):
            try:
                manifest = store.manifest(model, version)
            except OpsinError as error:
                complain(notes(), error.detail)
                continue
            standing = ", ".join(name for name, number in aliases.items() if number == version)
            size = sum(record.size for record in manifest.files.values())
            table.add_row(
                *(model, str(version), standing, escape(manifest.network)),
                "" if manifest.classes is None else str(manifest.classes),
                f"{manifest.created_at:%Y-%m-%d %H:%M}",
                f"{size / 1e6:,.1f} MB",
            )
        for version in store.quarantined(model):
            table.add_row(model, str(version), "[red]damaged, in quarantine[/]")
    if not table.rows:
        raise CommandError(
            "The store is empty. A worker brings the networks of OPSIN_MODELS when it starts."
        )
    answers().print(table)


def promote(settings: Settings, model: str, version: int, alias: str) -> None:
    """Lets an alias stand on a version."""
    before = _told(Store(settings.store_home).promote, model, version, alias)
    was = "new" if before is None else f"was version {before}"
    notes().print(f"[green]✓[/] {alias} of {model} is version {version} ({was})")


def delete(settings: Settings, model: str, version: int) -> None:
    """Removes a version for good."""
    _told(Store(settings.store_home).delete, model, version)
    notes().print(f"[green]✓[/] version {version} of {model} is deleted")


def verify(settings: Settings, model: str | None) -> None:
    """Reads all files of all versions, or of one model's; a damaged version goes to quarantine.

    Raises:
        CommandError: One is damaged, or there is none.
    """
    store = Store(settings.store_home)
    names = store.models() if model is None else [model]
    versions = [(name, version) for name in names for version in _told(store.versions, name)]
    if not versions:
        raise CommandError("There is no such version in the store; `opsin models list` shows all.")
    damaged = 0
    for name, version in versions:
        with waiting(notes(), f"Reading {name} {version}"):
            found = _told(store.verify, name, version)
        if found:
            damaged += 1
            complain(notes(), f"{name} {version} is in quarantine: {'; '.join(found)}")
            if version in store.aliases(name).values():
                complain(notes(), f"An alias stands on it: opsin models promote {name} VERSION")
        else:
            answers().print(f"[green]ok[/] {name} {version}")
    if damaged:
        raise CommandError(f"{damaged} of {len(versions)} versions are damaged.")


def fetch(
    settings: Settings, model: str, version: str, kind: DownloadFormat, to: Path | None
) -> None:
    """Writes a version to a file; one that has to be converted is converted first."""
    store = Store(settings.store_home)
    number = _told(store.resolve, model, version)
    if kind == "tflite" or kind == "onnx":  # noqa: PLR1714 (mypy follows this spelling)
        with waiting(notes(), f"Converting {model} {number} to {kind}"):
            _told(convert, store, model, number, kind)
    found = _told(download, store, model, number, kind)
    path = to or Path(found.filename)
    if path.is_dir():
        path /= found.filename
    try:
        with path.open("xb") as file:
            for chunk in found.chunks:
                file.write(chunk)
    except OSError as error:
        raise CommandError(f"Cannot write {path} ({error.strerror}).") from None
    answers().print(str(path), markup=False)


def _told(action: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> T:
    """The result of a call; what it objects to becomes the command's one line."""
    try:
        return action(*arguments, **options)
    except OpsinError as error:
        raise CommandError(error.detail) from None
