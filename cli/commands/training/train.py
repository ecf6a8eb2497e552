"""`opsin train`: a folder of class folders in, a served model version out, in this process.

It runs the same code as the service's trainings, with a terminal instead of the job table. Ctrl-C
stops between two steps; the same command again resumes the training.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from cli.commands.training.train_local import RunFolder, TerminalWork
from cli.image_files import is_image
from cli.options import Json, Key
from cli.output import (
    CommandError,
    answers,
    as_command_error,
    counted,
    print_json,
    suppress_logs,
    waiting,
    warn,
)
from cli.processes.signals import StopSignals
from cli.settings import load
from cli.startup import using_home
from cli.streams import shown
from cli.tables import Column, print_list
from contracts.errors import OpsinError
from contracts.inference.manifest import Served
from contracts.inference.serving import Serving
from contracts.jobs import WAITING_FOR_MEMORY
from contracts.jobs import Progress as JobProgress
from contracts.settings import Settings
from contracts.suggestions import explained
from contracts.training.datasets import DatasetInfo
from contracts.training.training_options import Epochs
from contracts.training.training_result import ClassReport, Promotion, SplitMetrics
from contracts.training.trainings import TrainingRequest
from contracts.work import WorkStoppedError
from models.datasets.store import DatasetStore
from models.memory.ledger import MemoryLedger
from models.memory.machine import memory_limit
from models.store.store import Store
from models.training.memory import check_memory, images_of
from models.training.parent import complete
from models.training.presets import PRESETS, training_request
from models.training.validation import check_model_name, check_network

_INTERRUPTED = 130
_SHOWN_CLASSES = 5
_SHOWN_REJECTED = 3
_NETWORK = "efficientnet_lite0"
_AUGMENTATION = {
    "rotation": 15,
    "width_shift": 0.1,
    "height_shift": 0.1,
    "zoom": 0.15,
    "horizontal_flip": True,
}


def train(  # noqa: PLR0917 (typer reads options from the parameters)
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A folder with one subfolder of images for each class; with --server also a "
            "dataset's id.",
        ),
    ],
    model: Annotated[str, typer.Option(help="The model that gets a new version.")],
    preset: Annotated[str | None, typer.Option(help="See `opsin presets`.")] = None,
    network: Annotated[str | None, typer.Option(help="Default: efficientnet_lite0.")] = None,
    strategy: Annotated[
        Literal["feature_extraction", "fine_tuning", "from_scratch"] | None,
        typer.Option(help="Default: feature_extraction if there are weights."),
    ] = None,
    unfreeze_from: Annotated[
        str | None, typer.Option(help="fine_tuning: the lowest layer or block that learns.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each phase, at most.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    image_size: Annotated[int | None, typer.Option(min=16, help="Side in pixels.")] = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Vary training images: turn, shift, zoom, mirror.")
    ] = False,
    promote: Annotated[
        Literal["if_better", "always", "never"] | None,
        typer.Option(help="Whether it becomes champion. Default: if_better."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed gives the same result on a machine.")
    ] = None,
    from_version: Annotated[
        str | None,
        typer.Option(help="Go on from this version: 2, champion, or MODEL@2 of another model."),
    ] = None,
    initial_weights: Annotated[
        str | None,
        typer.Option(help="from_scratch: load layers by name, e.g. vgg19_notop or MODEL@2."),
    ] = None,
    options: Annotated[
        str | None, typer.Option(help="Any other field of POST /v1/trainings, as JSON.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Train as a job of this server, e.g. http://gpu:8000. Default: in this process."
        ),
    ] = None,
    key: Key = None,
) -> None:
    """Learn the classes of a folder, and publish the model.

    Ctrl-C stops it; the same command again resumes. A running `opsin up` serves the new champion.
    With --server the training is a job there: Ctrl-C leaves it running.
    """
    fields = training_options(
        options,
        augment=augment,
        epochs=epochs,
        model=model,
        preset=preset,
        network=network,
        strategy=strategy,
        unfreeze_from=unfreeze_from,
        batch_size=batch_size,
        image_size=image_size,
        promote=promote,
        seed=seed,
        from_version=_version(from_version),
        initial_weights=_version(initial_weights),
    )
    if server is None:
        train_folder(load(key=key), folder, fields)
        return
    from cli.commands.training.train_remote import train_on_server  # httpx

    train_on_server(load(key=key), server, folder, fields)


def train_folder(settings: Settings, folder: Path, fields: Mapping[str, Any]) -> None:
    """Train on a folder, publish, and print the result.

    Args:
        folder: Class folders, or `train/`, `validation/` and `test/` with class folders inside.
        fields: The requested fields of `POST /v1/trainings`.

    Raises:
        CommandError: It cannot be done, or was interrupted.
    """
    _check_folder(folder)
    dataset_id = f"ds_folder_{_fingerprint(folder)}"
    request = _request({**fields, "dataset_id": dataset_id}, settings)
    with StopSignals() as signals, suppress_logs() as console, as_command_error():
        try:
            check_model_name(request.model)
            check_network(request)
            with using_home(settings):
                _add_dataset(settings, folder, dataset_id, console, signals)
                run_folder = RunFolder.of(settings.home / "trainings", request)
                with (
                    run_folder.locked(),
                    TerminalWork(run_folder, request, console, signals) as work,
                ):
                    result = _run(work, request, settings)
                run_folder.remove()
        except WorkStoppedError:
            raise CommandError(
                "Stopped. The same command again resumes here.", exit_code=_INTERRUPTED
            ) from None
    summarize(result, run_folder.results)


def _check_folder(folder: Path) -> None:
    """Find the typical mistakes before anything is read.

    Raises:
        CommandError: There is no such folder, or it looks like the folder of one class.
    """
    if not folder.exists():
        raise CommandError(f"{shown(folder)} does not exist.")
    if not folder.is_dir():
        raise CommandError(f"{shown(folder)} is a file. Name the folder of the class folders.")
    content = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if content and not any(path.is_dir() for path in content) and any(map(is_image, content)):
        raise CommandError(
            f"{shown(folder)} has images but no subfolders, so it looks like one class. Name the "
            f"folder above it: {shown(folder.resolve().parent)}"
        )


def presets(as_json: Json = False) -> None:
    """Show the trainings of the classic tutorials, by name."""
    if as_json:
        print_json({"items": [row.model_dump(mode="json") for row in PRESETS.values()]})
        return
    columns = [
        *(Column("preset", "id"), Column("network"), Column("what it trains")),
        Column("published accuracy"),
    ]
    print_list(
        columns,
        [
            (row.name, row.request["network"], row.title, row.accuracy or "none")
            for row in PRESETS.values()
        ],
    )


def _run(work: TerminalWork, request: TrainingRequest, settings: Settings) -> dict[str, Any]:
    """Train, beside the jobs of a running service if there is memory for all, otherwise later."""
    info = DatasetStore.of(settings).listing(request.dataset_id or "").info
    classes = len(request.classes or info.classes)
    limit = memory_limit(settings.training_memory_mb)
    needed = check_memory(request, classes, limit, images_of(request, info))

    def report() -> None:
        work.progress(JobProgress(fraction=0, phase=WAITING_FOR_MEMORY))

    with MemoryLedger.of(settings).reserve(needed, report) as reservation:
        work.at_peak = reservation.lower_to_peak
        work.show_status("Loading TensorFlow")
        from models.training.run import run  # TensorFlow

        return run(work, settings)


def _request(body: Mapping[str, Any], settings: Settings) -> TrainingRequest:
    try:
        return training_request(complete(body, Store(settings.store_home)))
    except OpsinError as error:
        raise CommandError(error.detail, exit_code=2) from None
    except ValidationError as bad:
        lines = [
            f"  {'.'.join(map(str, error['loc'])) or 'training'}: "
            f"{explained(error, TrainingRequest).removeprefix('Value error, ')}"
            for error in bad.errors()
        ]
        raise CommandError("These options are wrong:\n" + "\n".join(lines), exit_code=2) from None


def _add_dataset(
    settings: Settings, folder: Path, dataset_id: str, console: Console, signals: StopSignals
) -> None:
    """Make a dataset of the folder, unless it was made before and the folder has not changed."""
    store = DatasetStore.of(settings)
    if dataset_id in store.ids():
        info = store.listing(dataset_id).info
    else:
        with waiting(console, f"Reading {folder.name}") as update:

            def progress(done: int, _path: str) -> None:
                if signals.stop_requested():
                    raise WorkStoppedError
                if console.is_terminal:
                    update(f"Reading {folder.name}: {done:,} files")

            name = shown(folder.resolve().name)
            info = store.create(name, folder, progress=progress, dataset_id=dataset_id).info
        if not info.trainable:
            store.delete(dataset_id)  # nothing can be done with it, so nothing is left behind
    _describe(info, console)
    if not info.trainable:
        raise CommandError(f"{folder}: {info.reason} See `opsin train --help` for the layout.")


def _describe(info: DatasetInfo, console: Console) -> None:
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items() if count)
    mark = "[green]✓[/]" if info.trainable else "[yellow]![/]"
    found = counted(len(info.classes), "class")
    console.print(f"{mark} {escape(info.name)}: {'; '.join(filter(None, (found, splits)))}")
    for warning in info.warnings:
        warn(console, warning.detail)
    for file in info.rejected[:_SHOWN_REJECTED]:
        warn(console, f"{file.path} is left out: {file.detail}")
    if info.rejected_count > _SHOWN_REJECTED:
        more = counted(info.rejected_count - _SHOWN_REJECTED, "more file")
        warn(console, f"and {more} left out")


def _fingerprint(folder: Path) -> str:
    """A digest of a folder's path and its files' names, sizes and times."""
    digest = hashlib.sha256(os.fsencode(folder.resolve()))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            digest.update(os.fsencode(path))
            digest.update(f"\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


class _Summary(BaseModel):
    """The parts of a `TrainingResult` that are shown; a server of another release has them too."""

    model: str
    version: int
    held_out: str
    metrics: dict[str, SplitMetrics]
    per_class: list[ClassReport]
    seconds: dict[str, float]
    promoted: bool
    promotion: Promotion
    served: Served | None = None
    serving: Serving | None = None


def summarize(content: Mapping[str, Any], folder: Path | None) -> None:
    """Print what a training has achieved.

    Args:
        content: The result of a training.
        folder: Where its charts are; None if they are on a server.
    """
    result = _Summary.model_validate(content)
    console = answers()
    numbers = ("images", "accuracy", "loss", "macro F1")
    print_list(
        [Column("split", "id"), *(Column(name, "number") for name in numbers)],
        [
            (
                Text(split, "bold" if split == result.held_out else ""),
                *(f"{metrics.pictures:,}", f"{metrics.accuracy:.1%}"),
                *(f"{metrics.loss:.3f}", f"{metrics.macro_f1:.3f}"),
            )
            for split, metrics in result.metrics.items()
        ],
    )
    hardest = sorted(result.per_class, key=lambda scores: (scores.f1 is None, scores.f1))[
        :_SHOWN_CLASSES
    ]
    if len(result.per_class) > 2 and any((scores.f1 or 0) < 1 for scores in hardest):
        named = ", ".join(f"{scores.label} {scores.f1 or 0:.2f}" for scores in hardest)
        console.print(f"[dim]hardest classes by F1: {escape(named)}[/]")
    spent = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items() if value >= 1)
    console.print(f"[dim]seconds: {spent or 'under 1'}[/]")
    for precision, reason in (result.served.rejected if result.served else {}).items():
        warn(console, f"It is not served in {precision}: {reason}.")
    if result.serving is not None and result.serving.reason is not None:
        warn(
            console,
            f"It answers on {result.serving.ready} of {result.serving.workers} workers. "
            f"{result.serving.reason}",
        )
    mark = "[green]✓[/]" if result.promoted else "[yellow]![/]"
    champion = "is champion" if result.promoted else "is not champion"
    console.print(
        f"{mark} {result.model} version {result.version} {champion}. "
        f"{escape(result.promotion.reason)}"
    )
    if folder is not None:
        console.print(f"charts: {escape(shown(folder))}", soft_wrap=True)


def training_options(
    options: str | None, *, augment: bool, epochs: int | None, **fields: Any
) -> dict[str, Any]:
    """The requested fields of `POST /v1/trainings`; the preset decides about the others.

    Args:
        options: Further fields, as a JSON object.
        augment: Whether to vary images moderately.
        epochs: For each of the phases.
        fields: By their names in the API; None if not requested.

    Raises:
        CommandError: The options are not a JSON object.
    """
    requested = {name: value for name, value in fields.items() if value is not None}
    if epochs is not None:
        requested["epochs"] = dict.fromkeys(Epochs.model_fields, epochs)
    if augment:
        requested["augmentation"] = dict(_AUGMENTATION)
    requested |= _json_object(options)
    if requested.keys().isdisjoint({"preset", "from_version"}):
        requested.setdefault("network", _NETWORK)
    return requested


def _version(text: str | None) -> Any:
    """A version as the API takes it: a number, a name, or a model's."""
    model, separator, version = (text or "").partition("@")
    if separator:
        return {"model": model, "version": int(version) if version.isdecimal() else version}
    return int(model) if model.isdecimal() else text


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise CommandError(f"--options is not JSON: {error}.", exit_code=2) from None
    if not isinstance(value, dict):
        raise CommandError("--options takes an object, e.g. '{\"l2\": 0.0001}'.", exit_code=2)
    return value
