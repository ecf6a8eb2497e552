"""`opsin classify`: images in, classes out; by a server if one runs, otherwise here.

Files are read and sent a batch at a time, so that folders of any size can be classified.
"""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TextIO, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.clients.api import server_for
from cli.clients.types import ClassifyOptions, ImageFile, InferenceClient, empty_response
from cli.image_files import find_images, read_file
from cli.options import Key, Local, Server
from cli.output import CommandError, answers, errors, notes, print_error, print_fields
from cli.settings import load
from cli.streams import shown
from contracts.inference.inference import InferenceResponse, ItemError, ItemResult, Prediction
from contracts.settings import Settings

_BAR_CELLS = 24
_BATCH_BYTES = 64 * 1024**2
_MAX_LISTED_ERRORS = 20


def classify(  # noqa: PLR0917 (typer reads options from the parameters)
    photos: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE", help="Image files, - for stdin, and with --recursive also folders."
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Default: the first of OPSIN_MODELS that is here.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many classes to show.")] = 5,
    resize: Annotated[
        Literal["crop", "squash"] | None,
        typer.Option(help="How an image is fitted to the input. Default: as in training."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Take the images in folders and below.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option("--csv", help="Write a line for each image to this file; - is stdout."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's JSON.")] = False,
    server: Server = None,
    local: Local = False,
    key: Key = None,
) -> None:
    """Say what images show.

    A running server answers; without one, the model runs in this process.
    """
    if as_json and table is not None:
        raise CommandError("Choose one of --json and --csv.", exit_code=2)
    paths = find_images(photos, recursive=recursive)
    settings = load(key=key)
    client = client_for(settings, server, model, local=local)
    options = ClassifyOptions(model, top, resize)
    # A bar and results on the same terminal would overwrite each other.
    apart = as_json or not answers().is_terminal or (table is not None and str(table) != "-")
    parts = _classified(client, paths, options, settings, full_names=recursive, bar=apart)
    if as_json:
        failed = _print_json(parts, model)
    elif table is not None:
        failed = _write_csv(parts, table, top)
    else:
        failed = _print_tables(parts)
    if failed:
        raise CommandError(f"{failed:,} of {len(paths):,} images could not be classified.")


def client_for(
    settings: Settings, server: str | None, model: str | None, *, local: bool
) -> InferenceClient:
    """The server's client if one answers, otherwise one that loads the model here.

    Raises:
        CommandError: The named server does not answer, or the model is not on this machine.
    """
    if url := server_for(settings, server, local=local):
        from cli.clients.remote import RemoteClient

        return RemoteClient(settings, url)
    from cli.clients.local import LocalClient  # the model code

    return LocalClient.open(settings, model)


Part = tuple[Sequence[Path], InferenceResponse]
T = TypeVar("T")


def _classified(
    client: InferenceClient,
    paths: Sequence[Path],
    options: ClassifyOptions,
    settings: Settings,
    *,
    full_names: bool,
    bar: bool,
) -> Iterator[Part]:
    """The answers batch by batch, with a progress bar if there are several batches."""
    done = 0
    with _bar(len(paths), wanted=bar and len(paths) > settings.max_images) as progress:
        task = progress.add_task("Classifying", total=len(paths))
        for batch in read_batches(paths, settings.max_images, full_names=full_names):
            try:
                answer = _answer(client, [file for _, file in batch], options)
            except CommandError as error:
                if not done:
                    raise
                raise CommandError(
                    f"{error.message} {done:,} of {len(paths):,} are done."
                ) from None
            done += len(batch)
            yield [path for path, _ in batch], answer
            progress.update(task, completed=done)


def _answer(
    client: InferenceClient, files: Sequence[ImageFile | ItemResult], options: ClassifyOptions
) -> InferenceResponse:
    images = [file for file in files if isinstance(file, ImageFile)]
    answer = client.classify(images, options) if images else empty_response(options.model or "")
    answered = iter(answer.results)
    results = [next(answered) if isinstance(file, ImageFile) else file for file in files]
    return answer.model_copy(update={"results": results})


def read_batches(
    paths: Iterable[Path], size: int, *, full_names: bool
) -> Iterator[list[tuple[Path, ImageFile | ItemResult]]]:
    """The files with their content, as many at a time as one request and the memory take."""
    batch: list[tuple[Path, ImageFile | ItemResult]] = []
    held = 0
    for path in paths:
        file = _read(path, shown(path if full_names else path.name))
        batch.append((path, file))
        held += len(file.data) if isinstance(file, ImageFile) else 0
        if len(batch) == size or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _read(path: Path, name: str) -> ImageFile | ItemResult:
    try:
        if data := read_file(path):
            return ImageFile(name, data)
        detail = "The file is empty."
    except OSError as error:
        detail = f"cannot be read ({error.strerror})."
    fault = ItemError(code="invalid_image", detail=detail)
    return ItemResult.model_validate({"name": name, "error": fault})


@contextmanager
def _bar(total: int, *, wanted: bool) -> Iterator[Progress]:
    console = notes()
    if wanted and not console.is_terminal:
        console.print(f"Classifying {total:,} images …", markup=False)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (wanted and console.is_terminal),
        transient=True,
        redirect_stdout=False,
    ) as bar:
        yield bar


def _print_json(parts: Iterable[Part], model: str | None) -> int:
    """Print one document for all images."""
    from cli.clients.remote import joined

    found = [answer for _, answer in parts]
    answer = joined(found) if found else empty_response(model or "")
    answers().print(answer.model_dump_json(exclude_none=True), markup=False)
    return _report_errors(answer.results)


def _write_csv(parts: Iterable[Part], target: Path, top: int) -> int:
    """Write a line for each image as soon as it is known."""
    failed = 0
    parts = begun(parts)
    with open_table(target) as file:
        writer = csv.writer(file, lineterminator="\n")
        count: int | None = None  # a model may have fewer classes than were asked for
        for paths, answer in parts:
            if count is None:
                count = max((len(one.predictions or []) for one in answer.results), default=0)
                count = min(count, top) or top
                ranks = [""] + [f"_{rank}" for rank in range(2, count + 1)]
                names = [f"{name}{rank}" for rank in ranks for name in ("label", "probability")]
                writer.writerow(["file", *names, "error"])
            for path, result in zip(paths, answer.results, strict=True):
                cells = [
                    cell
                    for one in (result.predictions or [])[:count]
                    for cell in (one.label, f"{one.probability:.6f}")
                ]
                cells += [""] * (2 * count - len(cells))
                failed += result.error is not None
                writer.writerow([shown(path), *cells, result.error.detail if result.error else ""])
            file.flush()
    if str(target) != "-":
        notes().print(f"[green]✓[/] {escape(shown(target))}")
    return failed


def begun(rows: Iterable[T]) -> Iterator[T]:
    """The same, the first of them computed: what fails at once neither makes nor empties a file."""
    rest = iter(rows)
    return itertools.chain(list(itertools.islice(rest, 1)), rest)


@contextmanager
def open_table(target: Path) -> Iterator[TextIO]:
    """Open a CSV file to write; `-` is stdout.

    Raises:
        CommandError: It cannot be written.
    """
    if str(target) == "-":
        yield answers().file  # type: ignore[misc]
        return
    try:
        with target.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise CommandError(f"{target} cannot be written ({error.strerror}).") from None


def _print_tables(parts: Iterable[Part]) -> int:
    console, failed, last = answers(), 0, None
    for _, answer in parts:
        for result in answer.results:
            if result.predictions is not None:
                _print_predictions(console, result, result.predictions)
        failed += _report_errors(answer.results)
        last = answer if answer.batch_size else last
    if last is not None:
        timing = last.timing_ms
        notes().print(
            f"[dim]{escape(last.model)} version {last.version}: decode {timing.decode:.1f}, "
            f"queue {timing.queue:.1f}, compute {timing.compute:.1f}, "
            f"total {timing.total:.1f} ms[/]"
        )
    return failed


def _report_errors(results: Iterable[ItemResult]) -> int:
    failed = [result for result in results if result.error]
    for result in failed[:_MAX_LISTED_ERRORS]:
        print_error(errors(), f"{result.name}: {result.error.detail if result.error else ''}")
    if len(failed) > _MAX_LISTED_ERRORS:
        print_error(errors(), f"and {len(failed) - _MAX_LISTED_ERRORS:,} more images")
    return len(failed)


def _print_predictions(console: Console, result: ItemResult, predictions: list[Prediction]) -> None:
    """A small table for a person; a line for each class, with the file's name, for a program."""
    if not console.is_terminal:
        for one in predictions:
            print_fields(console, shown(result.name or ""), one.label, f"{one.probability:.1%}")
        return
    title = f"{shown(result.name or '')} ({result.width} × {result.height})"  # noqa: RUF001 (a real times sign)
    table = Table(title=escape(title), title_justify="left", box=None, show_header=False)
    table.add_column("label", min_width=24)
    table.add_column("bar", width=_BAR_CELLS)
    table.add_column("percent", justify="right", no_wrap=True)
    for prediction in predictions:
        bar = "█" * round(prediction.probability * _BAR_CELLS)
        percent = f"{prediction.probability:.1%}"
        table.add_row(escape(prediction.label), f"[cyan]{bar}[/]", percent)
    console.print(table)
