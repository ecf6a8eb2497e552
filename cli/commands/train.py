"""`opsin train`: a folder of class folders in, a served model version out, in this process.

It runs the same code as the service's trainings, with a terminal instead of the job table. Ctrl-C
stops between two steps; the same command again resumes the training.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from cli.commands.train_local import RunFolder, TerminalWork
from cli.output import (
    CommandError,
    answers,
    as_command_error,
    plain_table,
    suppress_logs,
    waiting,
    warn,
)
from cli.processes.signals import StopSignals
from cli.settings import load
from contracts.errors import OpsinError
from contracts.settings import Settings
from contracts.training.datasets import DatasetInfo
from contracts.training.training_result import TrainingResult
from contracts.training.trainings import Epochs, TrainingRequest
from contracts.work import WorkStoppedError
from models.datasets.store import DatasetStore
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
    folder: Annotated[Path, typer.Argument(help="One folder of images for each class.")],
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
    options: Annotated[
        str | None, typer.Option(help="Any other field of POST /v1/trainings, as JSON.")
    ] = None,
) -> None:
    """Learn the classes of a folder, and publish the model.

    Ctrl-C stops it; the same command again resumes. A running `opsin up` serves the new champion.
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
    )
    train_folder(load(), folder, fields)


def train_folder(settings: Settings, folder: Path, fields: Mapping[str, Any]) -> None:
    """Train on a folder, publish, and print the result.

    Args:
        folder: Class folders, or `train/`, `validation/` and `test/` with class folders inside.
        fields: The requested fields of `POST /v1/trainings`.

    Raises:
        CommandError: It cannot be done, or was interrupted.
    """
    if not folder.is_dir():
        raise CommandError(f"{folder} is not a folder with one folder of images for each class.")
    dataset_id = f"ds_folder_{_fingerprint(folder)}"
    request = _request({**fields, "dataset_id": dataset_id})
    with StopSignals() as signals, suppress_logs() as console, as_command_error():
        try:
            check_model_name(request.model)
            check_network(request)
            _add_dataset(settings, folder, dataset_id, console, signals)
            run_folder = RunFolder.of(settings.home / "trainings", request)
            with run_folder.locked(), TerminalWork(run_folder, request, console, signals) as work:
                result = _run(work, settings)
            run_folder.remove()
        except WorkStoppedError:
            raise CommandError(
                "Stopped. The same command again resumes here.", exit_code=_INTERRUPTED
            ) from None
    _summarise(TrainingResult.model_validate(result), run_folder.results)


def presets() -> None:
    """Show the trainings of the classic tutorials, by name."""
    table = plain_table()
    table.add_column("preset", no_wrap=True)
    table.add_column("network", no_wrap=True)
    table.add_column("what")
    for row in PRESETS.values():
        accuracy = f" [dim]({row.accuracy})[/]" if row.accuracy else ""
        table.add_row(row.name, row.request["network"], escape(row.title) + accuracy)
    answers().print(table)
    answers().print("[dim]in brackets: the accuracy that is usual on the full data[/]")


def _run(work: TerminalWork, settings: Settings) -> dict[str, Any]:
    work.show_status("Loading TensorFlow")
    from models.training.run import run  # TensorFlow

    return run(work, settings)


def _request(body: Mapping[str, Any]) -> TrainingRequest:
    try:
        return training_request(body)
    except OpsinError as error:
        raise CommandError(error.detail, exit_code=2) from None
    except ValidationError as bad:
        lines = [
            f"  {'.'.join(map(str, error['loc'])) or 'training'}: "
            f"{error['msg'].removeprefix('Value error, ')}"
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

            name = folder.resolve().name
            info = store.create(name, folder, progress=progress, dataset_id=dataset_id).info
    _describe(info, console)


def _describe(info: DatasetInfo, console: Console) -> None:
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items() if count)
    console.print(f"[green]✓[/] {escape(info.name)}: {len(info.classes)} classes; {splits}")
    for warning in info.warnings:
        warn(console, warning.detail)
    for file in info.rejected[:_SHOWN_REJECTED]:
        warn(console, f"{file.path} is left out: {file.detail}")
    if info.rejected_count > _SHOWN_REJECTED:
        warn(console, f"and {info.rejected_count - _SHOWN_REJECTED:,} more files are left out")


def _fingerprint(folder: Path) -> str:
    """A digest of a folder's path and its files' names, sizes and times."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            digest.update(f"{path}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _summarise(result: TrainingResult, folder: Path) -> None:
    console = answers()
    numbers = ("images", "accuracy", "loss", "macro F1")
    table = plain_table("", *numbers, right=numbers)
    for split, metrics in result.metrics.items():
        bold = "bold" if split == result.held_out else ""
        cells = (
            f"{metrics.pictures:,}",
            f"{metrics.accuracy:.1%}",
            f"{metrics.loss:.3f}",
            f"{metrics.macro_f1:.3f}",
        )
        table.add_row(split, *cells, style=bold)
    console.print(table)
    hardest = sorted(result.per_class, key=lambda scores: (scores.f1 is None, scores.f1))[
        :_SHOWN_CLASSES
    ]
    if len(result.per_class) > 2 and any((scores.f1 or 0) < 1 for scores in hardest):
        named = ", ".join(f"{scores.label} {scores.f1 or 0:.2f}" for scores in hardest)
        console.print(f"[dim]hardest classes by F1: {escape(named)}[/]")
    spent = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items() if value >= 1)
    console.print(f"[dim]seconds: {spent or 'under 1'}[/]")
    served = result.served
    for precision, reason in (served.rejected if served else {}).items():
        warn(console, f"It is not served in {precision}: {reason}.")
    mark = "[green]✓[/]" if result.promoted else "[yellow]![/]"
    champion = "is champion" if result.promoted else "is not champion"
    console.print(
        f"{mark} {result.model} version {result.version} {champion}. "
        f"{escape(result.promotion.reason)}"
    )
    console.print(f"charts: {escape(str(folder))}", soft_wrap=True)


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
    if "preset" not in requested:
        requested.setdefault("network", _NETWORK)
    return requested | _json_object(options)


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise CommandError(f"--options is not JSON: {error}.", exit_code=2) from None
    if not isinstance(value, dict):
        raise CommandError("--options takes an object, e.g. '{\"l2\": 0.0001}'.", exit_code=2)
    return value
