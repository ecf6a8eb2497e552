"""`opsin datasets`: take pictures in, look at what became of them, remove them.

It works on the folders and the database of this machine, so no server has to run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.migrate import migrate
from cli.output import CommandError, answers, notes, warn
from contracts.errors import OpsinError
from contracts.settings import Settings
from contracts.training.datasets import DatasetFile, DatasetInfo, FileStatus
from database.datasets import DatasetRows
from database.engine import open_engine
from database.jobs.jobs import Jobs
from database.paging import MOST_LISTED
from models.datasets.admission import Told
from models.datasets.library import Library
from models.datasets.splitting import Fractions
from service.datasets.service import Datasets

P = ParamSpec("P")
T = TypeVar("T")
_SHOWN_REASONS = 8


def add(settings: Settings, source: Path, name: str | None, fractions: Fractions) -> None:
    """Takes a folder or an archive in, and prints the admission report."""
    console = notes()
    with _opened(settings) as datasets, _counting(console) as told:
        body = _told(datasets.create, name or _name_of(source), source, fractions, told=told)
    info = DatasetInfo.model_validate(body)
    console.print(f"[green]✓[/] {escape(info.name)} is taken in as [bold]{info.id}[/]")
    _report(answers(), info)


def show_all(settings: Settings) -> None:
    """Prints all datasets, newest first."""
    table = _table("id", "name", "classes", "pictures", "left out", "size", "trainable")
    with _opened(settings) as datasets:
        cursor = None
        while True:
            page = _told(datasets.rows.list, limit=MOST_LISTED, cursor=cursor)
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


def show(settings: Settings, dataset_id: str) -> None:
    """Prints the admission report of one dataset."""
    with _opened(settings) as datasets:
        _report(answers(), _told(datasets.rows.get, dataset_id))


def files(
    settings: Settings, dataset_id: str, label: str | None, status: FileStatus | None
) -> None:
    """Prints every file and what became of it."""
    table = _table("path", "status", "class", "split", "code", "detail")
    with _opened(settings) as datasets:
        cursor = None
        while True:
            page = _told(
                datasets.rows.files,
                dataset_id,
                label=label,
                status=status,
                limit=MOST_LISTED,
                cursor=cursor,
            )
            for one in page.items:
                _add_file(table, one)
            cursor = page.next_cursor
            if cursor is None:
                break
    answers().print(table)


def delete(settings: Settings, dataset_id: str) -> None:
    """Removes a dataset for good."""
    with _opened(settings) as datasets:
        _told(datasets.delete, dataset_id)
    notes().print(f"[green]✓[/] {escape(dataset_id)} is deleted")


@contextmanager
def _opened(settings: Settings) -> Iterator[Datasets]:
    _told(migrate, settings)
    engine = open_engine(settings.database)
    jobs = Jobs(engine, _now)
    datasets = Datasets(Library.of(settings), DatasetRows(engine, _now), jobs.needs_dataset)
    try:
        _told(datasets.reconcile)
        yield datasets
    finally:
        engine.dispose()


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _counting(console: Console) -> Iterator[Told]:
    """A line that counts the files; nothing where there is no terminal."""
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


def _report(console: Console, info: DatasetInfo) -> None:
    """What is in it, what may spoil a training, what was left out and why."""
    table = _table("class", "pictures")
    for label, count in info.classes.items():
        table.add_row(escape(label), f"{count:,}")
    console.print(f"[bold]{escape(info.name)}[/]  {info.id}  {info.digest[:19]}")
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items())
    console.print(f"{sum(info.splits.values()):,} pictures: {splits}")
    console.print(table)
    for warning in info.warnings:
        warn(console, f"{warning.code}: {warning.detail}")
    _left_out(console, info)
    if info.trainable:
        console.print("[green]✓[/] ready to train")
    else:
        console.print(f"[red]not trainable:[/] {escape(info.reason or '')}")


def _left_out(console: Console, info: DatasetInfo) -> None:
    if not info.rejected_count:
        return
    console.print(f"{info.rejected_count:,} files were left out:")
    table = _table("path", "code", "detail")
    for one in info.rejected[:_SHOWN_REASONS]:
        table.add_row(escape(one.path), one.code, escape(one.detail))
    console.print(table)
    if info.rejected_count > _SHOWN_REASONS:
        console.print(f"All of them: opsin datasets files {info.id} --status rejected")


def _add_file(table: Table, one: DatasetFile) -> None:
    table.add_row(
        *(escape(one.path), one.status, escape(one.label or ""), one.split or ""),
        *(one.code or "", escape(one.detail or "")),
    )


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading in {"pictures", "left out", "size", "classes"}
        table.add_column(
            heading, justify="right" if right else "left", no_wrap=heading in {"id", "status"}
        )
    return table


def _name_of(source: Path) -> str:
    name = source.resolve().name
    for ending in (".zip", ".tar.gz", ".tgz", ".tar"):
        name = name.removesuffix(ending)
    return "".join(c for c in name if c.isprintable())[:100] or "pictures"


def _told(action: Callable[P, T], /, *arguments: P.args, **options: P.kwargs) -> T:
    """The result of a call; what it objects to becomes the command's one line."""
    try:
        return action(*arguments, **options)
    except OpsinError as error:
        raise CommandError(error.detail) from None
