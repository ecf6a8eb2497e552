"""`opsin datasets`: add labeled images, look at what became of them, remove them.

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
from rich.text import Text

from cli.commands.dataset_video import video
from cli.options import Json, Yes
from cli.output import (
    CommandError,
    answers,
    as_command_error,
    confirm,
    counted,
    notes,
    print_json,
    warn,
)
from cli.settings import load
from cli.startup import open_database, using_home
from cli.streams import shown
from cli.tables import Column, print_list
from contracts.names import printable_part
from contracts.suggestions import similar
from contracts.training.datasets import DatasetFile, DatasetInfo, FileStatus, LabelSource
from database.audit import COMMAND, Audit
from database.datasets import DatasetRows
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
    str,
    typer.Argument(metavar="DATASET", help="Its id, or its name if no other dataset has it."),
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
    mark = "[green]✓[/]" if info.trainable else "[yellow]![/]"
    console.print(f"{mark} {escape(shown(info.name))} is added as [bold]{info.id}[/]")
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
    with as_command_error(), using_home(settings):
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
def list_datasets(as_json: Json = False) -> None:
    """Show all datasets, newest first."""
    with _open_datasets() as datasets:
        infos = _all(datasets)
    if as_json:
        print_json({"items": [info.model_dump(mode="json") for info in infos]})
        return
    if not infos:
        raise CommandError("There is no dataset yet: opsin datasets add FOLDER")
    columns = [
        *(Column("id", "id"), Column("name"), Column("classes", "number")),
        *(Column("images", "number"), Column("left out", "number"), Column("size", "number")),
        Column("trainable"),
    ]
    print_list(
        columns,
        [
            (
                *(info.id, info.name, str(len(info.classes))),
                *(f"{sum(info.splits.values()):,}", f"{info.rejected_count:,}"),
                *(f"{info.size / 1e6:,.1f} MB", "yes" if info.trainable else "no"),
            )
            for info in infos
        ],
    )


def _all(datasets: Datasets) -> list[DatasetInfo]:
    infos: list[DatasetInfo] = []
    cursor = None
    while True:
        page = datasets.rows.list(limit=MAX_PAGE_SIZE, cursor=cursor)
        infos += page.items
        cursor = page.next_cursor
        if cursor is None:
            return infos


def _id_of(datasets: Datasets, named: str) -> str:
    """The id of a dataset that is named by it or by its name.

    Raises:
        CommandError: No dataset has that name, or several have it.
    """
    if named.startswith("ds_"):
        return named
    infos = _all(datasets)
    found = [info.id for info in infos if info.name == named]
    if not found:
        hint = similar(named, {info.name for info in infos})
        raise CommandError(
            f"There is no dataset '{shown(named)}'.{hint} `opsin datasets list` shows all."
        )
    if len(found) > 1:
        raise CommandError(f"Several datasets have that name: {', '.join(found)}. Give an id.")
    return found[0]


@app.command()
def show(dataset_id: DatasetId, as_json: Json = False) -> None:
    """Show a dataset's classes, splits, warnings, and what was left out."""
    with _open_datasets() as datasets:
        info = datasets.rows.get(_id_of(datasets, dataset_id))
    if as_json:
        print_json(info.model_dump(mode="json"))
    else:
        _print_report(answers(), info)


@app.command()
def files(
    dataset_id: DatasetId,
    label: Annotated[str | None, typer.Option(help="Only this class.")] = None,
    status: Annotated[
        FileStatus | None, typer.Option(help="Only files that were kept, or left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show every file that was sent, and what became of it."""
    found: list[DatasetFile] = []
    with _open_datasets() as datasets:
        dataset_id, cursor = _id_of(datasets, dataset_id), None
        while True:
            page = datasets.rows.files(
                dataset_id, label=label, status=status, limit=MAX_PAGE_SIZE, cursor=cursor
            )
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        print_json({"items": [file.model_dump(mode="json") for file in found]})
        return
    columns = [
        *(Column("path", "id"), Column("status"), Column("class"), Column("split")),
        *(Column("code"), Column("detail")),
    ]
    print_list(
        columns,
        [
            (
                *(file.path, file.status, file.label or "", file.split or ""),
                *(file.code or "", file.detail or ""),
            )
            for file in found
        ],
    )


@app.command()
def delete(dataset_id: DatasetId, yes: Yes = False) -> None:
    """Remove a dataset and its images for good."""
    with _open_with_audit() as (datasets, audit):
        dataset_id = _id_of(datasets, dataset_id)
        info = datasets.rows.get(dataset_id)
        confirm(f"Delete {info.name} ({dataset_id}) and its images for good?", yes=yes)
        datasets.delete(dataset_id)
        audit.write(COMMAND, "dataset_deleted", dataset_id)
    notes().print(f"[green]✓[/] {escape(dataset_id)} is deleted")


app.command("video")(video)


@contextmanager
def _open_datasets() -> Iterator[Datasets]:
    with _open_with_audit() as (datasets, _):
        yield datasets


@contextmanager
def _open_with_audit() -> Iterator[tuple[Datasets, Audit]]:
    settings = load()
    with open_database(settings) as engine:
        jobs, rows = Jobs(engine, _now), DatasetRows(engine, _now)
        datasets = Datasets(DatasetStore.of(settings), rows, jobs.needs_dataset)
        datasets.reconcile()
        yield datasets, Audit(engine, _now)


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
        yield lambda done, path: progress.update(
            task, completed=done + 1, description=shown(path)[-60:]
        )


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
    console.print(f"[bold]{escape(shown(info.name))}[/]  {info.id}  {info.digest[:19]}")
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items())
    console.print(f"{counted(sum(info.splits.values()), 'image')}: {splits}")
    print_list(
        [Column("class", "id"), Column("images", "number")],
        [(label, f"{count:,}") for label, count in info.classes.items()],
        console,
    )
    for warning in info.warnings:
        warn(console, f"{warning.code}: {warning.detail}")
    _print_rejected(console, info)
    if info.trainable:
        console.print("[green]✓[/] ready to train")
    else:
        console.print(Text.assemble(("not trainable: ", "red"), shown(info.reason or "")))


def _print_rejected(console: Console, info: DatasetInfo) -> None:
    if not info.rejected_count:
        return
    left_out = "1 file was" if info.rejected_count == 1 else f"{info.rejected_count:,} files were"
    console.print(f"{left_out} left out:")
    print_list(
        [Column("path", "id"), Column("code"), Column("detail")],
        [(file.path, file.code, file.detail) for file in info.rejected[:_SHOWN_REJECTED]],
        console,
    )
    if info.rejected_count > _SHOWN_REJECTED:
        console.print(f"All of them: opsin datasets files {info.id} --status rejected")


def _name_of(source: Path) -> str:
    name = source.resolve().name
    for ending in (".zip", ".tar.gz", ".tgz", ".tar"):
        name = name.removesuffix(ending)
    return printable_part(name)[:100].strip() or "pictures"
