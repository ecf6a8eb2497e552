"""`opsin classify`: photos in, a table a photo out; through a server if there is one, else here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.markup import escape
from rich.table import Table

from cli.clients.api import server_for
from cli.output import CommandError, answers, complain, notes
from contracts.inference.inference import (
    InferenceResponse,
    ItemError,
    ItemResult,
    Prediction,
    Resize,
    Timing,
)
from contracts.settings import Settings

_BAR_CELLS = 24


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of each photo.

    Attributes:
        model: The network; None for the default one.
        top: How many classes.
        resize: How a photo becomes the network's input.
    """

    model: str | None
    top: int
    resize: Resize


@dataclass(frozen=True, slots=True)
class Photo:
    """A file that could be read."""

    name: str
    data: bytes


class Classifier(Protocol):
    """A running server, or the network in this process."""

    def __call__(self, photos: list[Photo], question: Question) -> InferenceResponse:
        """The results in the order of the photos, a bad one's error among them."""


def classify(
    settings: Settings,
    files: list[Path],
    question: Question,
    *,
    server: str | None,
    local: bool,
    as_json: bool,
) -> None:
    """Prints what is on each photo.

    Raises:
        CommandError: No answer at all, or some photo has none.
    """
    classifier = _classifier(settings, server, local=local)
    read = [_read(file) for file in files]
    answer = classifier([one for one in read if isinstance(one, Photo)], question)
    given = iter(answer.results)
    results = [next(given) if isinstance(one, Photo) else one for one in read]
    answer = answer.model_copy(update={"results": results})
    if as_json:
        answers().print(answer.model_dump_json(exclude_none=True), markup=False)
    else:
        _print_tables(answer)
    faults = [f"{one.name}: {one.error.detail}" for one in results if one.error is not None]
    for fault in faults:
        complain(notes(), fault)
    if faults:
        raise CommandError(f"{len(faults)} of {len(results)} photos have no answer.")


def _classifier(settings: Settings, server: str | None, *, local: bool) -> Classifier:
    if url := server_for(settings, server, local=local):
        from cli.clients.classify_remote import Remote

        return Remote(settings, url)
    from cli.clients.classify_local import Local  # loads the model code

    return Local(settings)


def empty(model: str) -> InferenceResponse:
    """The answer about no photo."""
    timing = Timing(decode=0, queue=0, compute=0, total=0)
    return InferenceResponse(model=model, version=1, batch_size=0, results=[], timing_ms=timing)


def _read(file: Path) -> Photo | ItemResult:
    try:
        return Photo(file.name, file.read_bytes())
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
