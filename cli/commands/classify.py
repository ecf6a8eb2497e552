"""`opsin classify`: images in, a table for each out; by a server if one runs, otherwise here."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from cli.clients.api import server_for
from cli.clients.types import ClassifyOptions, ImageFile, InferenceClient
from cli.options import Key, Local, Server
from cli.output import CommandError, answers, notes, print_error
from cli.settings import load
from contracts.inference.inference import InferenceResponse, ItemError, ItemResult, Prediction
from contracts.settings import Settings

_BAR_CELLS = 24


def classify(  # noqa: PLR0917 (typer reads options from the parameters)
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Image files.")],
    model: Annotated[
        str | None, typer.Option(help="Default: the first of OPSIN_MODELS that is here.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many classes to show.")] = 5,
    resize: Annotated[
        Literal["crop", "squash"] | None,
        typer.Option(help="How an image is fitted to the input. Default: as in training."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's JSON.")] = False,
    server: Server = None,
    local: Local = False,
    key: Key = None,
) -> None:
    """Say what images show.

    A running server answers; without one, the model runs in this process.
    """
    client = client_for(load(key=key), server, model, local=local)
    files = [_read(path) for path in photos]
    images = [file for file in files if isinstance(file, ImageFile)]
    answer = client.classify(images, ClassifyOptions(model, top, resize))
    answered = iter(answer.results)
    results = [next(answered) if isinstance(file, ImageFile) else file for file in files]
    answer = answer.model_copy(update={"results": results})
    if as_json:
        answers().print(answer.model_dump_json(exclude_none=True), markup=False)
    else:
        _print_tables(answer)
    errors = [f"{result.name}: {result.error.detail}" for result in results if result.error]
    for error in errors:
        print_error(notes(), error)
    if errors:
        raise CommandError(f"{len(errors)} of {len(results)} images could not be classified.")


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


def _read(file: Path) -> ImageFile | ItemResult:
    try:
        return ImageFile(file.name, file.read_bytes())
    except OSError as error:
        fault = ItemError(code="invalid_image", detail=f"cannot be read ({error.strerror}).")
        return ItemResult.model_validate({"name": file.name, "error": fault})


def _print_tables(answer: InferenceResponse) -> None:
    console = answers()
    for result in answer.results:
        if result.predictions is not None:
            console.print(_table(result, result.predictions))
    if answer.batch_size:
        timing = answer.timing_ms
        console.print(
            f"[dim]{escape(answer.model)} version {answer.version}: decode {timing.decode:.1f}, "
            f"queue {timing.queue:.1f}, compute {timing.compute:.1f}, "
            f"total {timing.total:.1f} ms[/]"
        )


def _table(result: ItemResult, predictions: list[Prediction]) -> Table:
    title = f"{result.name} ({result.width} × {result.height})"  # noqa: RUF001 (a real times sign)
    table = Table(title=escape(title), title_justify="left", box=None, show_header=False)
    table.add_column("label", min_width=24)
    table.add_column("bar", width=_BAR_CELLS)
    table.add_column("percent", justify="right", no_wrap=True)
    for prediction in predictions:
        bar = "█" * round(prediction.probability * _BAR_CELLS)
        percent = f"{prediction.probability:.1%}"
        table.add_row(escape(prediction.label), f"[cyan]{bar}[/]", percent)
    return table
