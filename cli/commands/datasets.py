"""`opsin datasets`: add labelled images, look at what became of them, remove them.

It works on this machine's folders and database, so no server has to run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from cli.output import CommandError, answers, as_command_error, notes, plain_table, warn
from cli.settings import load
from cli.startup import migrate
from contracts.names import printable_part
from contracts.training.datasets import DatasetFile, DatasetInfo, FileStatus, LabelSource
from database.datasets import DatasetRows
from database.engine import open_engine
from database.jobs.jobs import Jobs
from database.paging import MAX_PAGE_SIZE
from models.datasets.admission import ImportProgress
from models.datasets.archives.name_encoding import Naming, checked_encoding
from models.datasets.published import fetch as fetch_files
from models.datasets.published import published, published_datasets, read_published
from models.datasets.splitting import Fractions
from models.datasets.store import DEFAULT_FRACTIONS, DatasetStore
from models.weights.files import DownloadProgress
from service.datasets.service import Datasets

DatasetId = Annotated[
    str, typer.Argument(metavar="ID", help="Its id, as `opsin datasets list` shows it.")
]

_SHOWN_REJECTED = 8

app = typer.Typer()


@app.command()
def add(  # noqa: PLR0917  options of a command
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER_OR_ARCHIVE", help="One folder for each class, or a zip or tar of them."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Default: the folder's name.")] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=0.9, help="Part of each class for validation.")
    ] = 0.15,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Part of each class to test.")] = 0.15,
    seed: Annotated[int, typer.Option(min=0, help="Another seed splits differently.")] = 0,
    name_encoding: Annotated[
        str | None, typer.Option(help="Of file names that do not say it, such as gbk; or guessed.")
    ] = None,
    labels_from: Annotated[
        LabelSource, typer.Option(help="Whether folders or files are named after classes.")
    ] = "folders",
) -> None:
    """Add a dataset, and report what became of each file."""
    console = notes()
    fractions = Fractions(validation, test, seed)
    with _open_datasets() as datasets, _file_counter(console) as progress:
        body = datasets.create(
            name or _name_of(source),
            source,
            fractions,
            progress=progress,
            naming=Naming(
                None if name_encoding is None else checked_encoding(name_encoding), labels_from
            ),
        )
    info = DatasetInfo.model_validate(body)
    console.print(f"[green]✓[/] {escape(info.name)} is added as [bold]{info.id}[/]")
    _print_report(answers(), info)


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help=f"One of {', '.join(published_datasets())}.", metavar="NAME")
    ],
) -> None:
    """Fetch a dataset of the tutorials from its publisher, and add it.

    Where the publisher cannot be reached, the message says which file to put where.
    """
    settings, console = load(), notes()
    with as_command_error():
        dataset = published(name)
        with _download_bar(console, name) as progress:
            paths = fetch_files(
                dataset, settings.home / "downloads", offline=settings.offline, progress=progress
            )
    source = paths[0] if dataset.format == "archive" else read_published(dataset, paths)
    with _open_datasets() as datasets, _file_counter(console) as counter:
        body = datasets.create(
            name,
            source,
            DEFAULT_FRACTIONS,
            progress=counter,
            naming=Naming(labels_from=dataset.labels_from),
        )
    info = DatasetInfo.model_validate(body)
    console.print(f"[green]✓[/] {escape(dataset.title)} is added as [bold]{info.id}[/]")
    _print_report(answers(), info)


@app.command("list")
def list_datasets() -> None:
    """Show all datasets, newest first."""
    table = _table("id", "name", "classes", "images", "left out", "size", "trainable")
    with _open_datasets() as datasets:
        cursor = None
        while True:
            page = datasets.rows.list(limit=MAX_PAGE_SIZE, cursor=cursor)
            for info in page.items:
                table.add_row(
                    *(info.id, escape(info.name), str(len(info.classes))),
                    *(f"{sum(info.splits.values()):,}", f"{info.rejected_count:,}"),
                    *(f"{info.size / 1e6:,.1f} MB", "yes" if info.trainable else "no"),
                )
            cursor = page.next_cursor
            if cursor is None:
                break
    if not table.rows:
        raise CommandError("There is no dataset yet: opsin datasets add FOLDER")
    answers().print(table)


@app.command()
def show(dataset_id: DatasetId) -> None:
    """Show a dataset's classes, splits, warnings, and what was left out."""
    with _open_datasets() as datasets:
        _print_report(answers(), datasets.rows.get(dataset_id))


@app.command()
def files(
    dataset_id: DatasetId,
    label: Annotated[str | None, typer.Option(help="Only this class.")] = None,
    status: Annotated[
        FileStatus | None, typer.Option(help="Only files that were kept, or left out.")
    ] = None,
) -> None:
    """Show every file that was sent, and what became of it."""
    table = _table("path", "status", "class", "split", "code", "detail")
    with _open_datasets() as datasets:
        cursor = None
        while True:
            page = datasets.rows.files(
                dataset_id, label=label, status=status, limit=MAX_PAGE_SIZE, cursor=cursor
            )
            for file in page.items:
                _add_file(table, file)
            cursor = page.next_cursor
            if cursor is None:
                break
    answers().print(table)


@app.command()
def delete(dataset_id: DatasetId) -> None:
    """Remove a dataset and its images for good."""
    with _open_datasets() as datasets:
        datasets.delete(dataset_id)
    notes().print(f"[green]✓[/] {escape(dataset_id)} is deleted")


@contextmanager
def _open_datasets() -> Iterator[Datasets]:
    settings = load()
    with as_command_error():
        migrate(settings)
        engine = open_engine(settings.database)
        try:
            jobs = Jobs(engine, _now)
            rows = DatasetRows(engine, _now)
            datasets = Datasets(DatasetStore.of(settings), rows, jobs.needs_dataset)
            datasets.reconcile()
            yield datasets
        finally:
            engine.dispose()


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _file_counter(console: Console) -> Iterator[ImportProgress]:
    """A line that counts the files; nothing if there is no terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.completed:,} files"),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, path: progress.update(task, completed=done + 1, description=path[-60:])


@contextmanager
def _download_bar(console: Console, name: str) -> Iterator[DownloadProgress]:
    with Progress(
        TextColumn("{task.description}", markup=False),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _print_report(console: Console, info: DatasetInfo) -> None:
    """What is in it, what may spoil a training, what was left out and why."""
    table = _table("class", "images")
    for label, count in info.classes.items():
        table.add_row(escape(label), f"{count:,}")
    console.print(f"[bold]{escape(info.name)}[/]  {info.id}  {info.digest[:19]}")
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items())
    console.print(f"{sum(info.splits.values()):,} images: {splits}")
    console.print(table)
    for warning in info.warnings:
        warn(console, f"{warning.code}: {warning.detail}")
    _print_rejected(console, info)
    if info.trainable:
        console.print("[green]✓[/] ready to train")
    else:
        console.print(f"[red]not trainable:[/] {escape(info.reason or '')}")


def _print_rejected(console: Console, info: DatasetInfo) -> None:
    if not info.rejected_count:
        return
    console.print(f"{info.rejected_count:,} files were left out:")
    table = _table("path", "code", "detail")
    for file in info.rejected[:_SHOWN_REJECTED]:
        table.add_row(escape(file.path), file.code, escape(file.detail))
    console.print(table)
    if info.rejected_count > _SHOWN_REJECTED:
        console.print(f"All of them: opsin datasets files {info.id} --status rejected")


def _add_file(table: Table, file: DatasetFile) -> None:
    table.add_row(
        *(escape(file.path), file.status, escape(file.label or ""), file.split or ""),
        *(file.code or "", escape(file.detail or "")),
    )


def _table(*headings: str) -> Table:
    table = plain_table()
    for heading in headings:
        right = heading in {"images", "left out", "size", "classes"}
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=heading in {"id", "status"}
        )
    return table


def _name_of(source: Path) -> str:
    name = source.resolve().name
    for ending in (".zip", ".tar.gz", ".tgz", ".tar"):
        name = name.removesuffix(ending)
    return printable_part(name)[:100].strip() or "pictures"
