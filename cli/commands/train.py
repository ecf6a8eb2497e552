"""`opsin train`: a folder of class folders in, a served model version out, in this very process.

The same code as the service's trainings, over a terminal in place of the job table. Ctrl-C stops
between two steps; the same command again goes on from there.

From the options of `opsin train` to the fields of `POST /v1/trainings`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.commands.train_local import Shelf, TerminalWork
from cli.output import CommandError, answers, muffled, waiting, warn
from cli.processes.signals import StopSignals
from contracts.errors import OpsinError
from contracts.settings import Settings
from contracts.training.datasets import DatasetInfo
from contracts.training.training_result import TrainingResult
from contracts.training.trainings import Epochs, TrainingRequest
from contracts.work import WorkStoppedError
from models.datasets.library import Library
from models.training.presets import training_request
from models.training.validation import check_name, check_network

_INTERRUPTED = 130
_SHOWN_CLASSES = 5


def train(settings: Settings, folder: Path, wishes: Mapping[str, Any]) -> None:
    """Trains on a folder, publishes, and prints what came of it.

    Args:
        settings: Where everything is.
        folder: Class folders, or `train/`, `validation/` and `test/` with class folders inside.
        wishes: Fields of `POST /v1/trainings`, those that were asked for.

    Raises:
        CommandError: It cannot be done, or was interrupted.
    """
    if not folder.is_dir():
        raise CommandError(f"{folder} is no folder. It should hold one folder of pictures a class.")
    dataset_id = f"ds_folder_{_fingerprint(folder)}"
    request = _request({**wishes, "dataset_id": dataset_id})
    with StopSignals() as signals, muffled() as console:
        try:
            check_name(request.model)
            check_network(request)
            _admit(settings, folder, dataset_id, console, signals)
            shelf = Shelf.of(settings.home / "trainings", request)
            with shelf.held(), TerminalWork(shelf, request, console, signals) as work:
                result = _run(work, settings)
            shelf.finish()
        except WorkStoppedError:
            raise CommandError(
                "Stopped. The same command again goes on from here.", exit_code=_INTERRUPTED
            ) from None
        except OpsinError as error:
            raise CommandError(error.detail) from None
    _summarise(TrainingResult.model_validate(result), shelf.pictures)


def show_presets() -> None:
    """Prints the presets."""
    from models.training.presets import PRESETS

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("preset", no_wrap=True)
    table.add_column("network", no_wrap=True)
    table.add_column("what")
    for row in PRESETS.values():
        reached = f" [dim]({row.accuracy})[/]" if row.accuracy else ""
        table.add_row(row.name, row.request["network"], escape(row.title) + reached)
    answers().print(table)
    answers().print("[dim]in brackets: the accuracy that people reach on the full data[/]")


def _run(work: TerminalWork, settings: Settings) -> dict[str, Any]:
    work.say("Loading TensorFlow")
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
        raise CommandError("This is no training:\n" + "\n".join(lines), exit_code=2) from None


def _admit(
    settings: Settings, folder: Path, dataset_id: str, console: Console, signals: StopSignals
) -> None:
    """Make a dataset of the folder, unless the folder as it is has been one before."""
    library = Library.of(settings)
    if dataset_id in library.ids():
        info = library.listing(dataset_id).info
    else:
        with waiting(console, f"Reading {folder.name}") as tell:

            def told(done: int, _path: str) -> None:
                if signals.asked():
                    raise WorkStoppedError
                if console.is_terminal:
                    tell(f"Reading {folder.name}: {done:,} files")

            info = library.create(
                folder.resolve().name, folder, told=told, dataset_id=dataset_id
            ).info
    _describe(info, console)


def _describe(info: DatasetInfo, console: Console) -> None:
    splits = ", ".join(f"{count:,} {split}" for split, count in info.splits.items() if count)
    console.print(f"[green]✓[/] {escape(info.name)}: {len(info.classes)} classes; {splits}")
    for warning in info.warnings:
        warn(console, warning.detail)
    for one in info.rejected[:3]:
        warn(console, f"{one.path} is left out: {one.detail}")
    if info.rejected_count > 3:
        warn(console, f"and {info.rejected_count - 3:,} more files are left out")


def _fingerprint(folder: Path) -> str:
    """Of a folder as it is: where it lies, its files, their sizes and times."""
    found = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            status = path.stat()
            found.update(f"{path}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return found.hexdigest()[:24]


def _summarise(result: TrainingResult, pictures: Path) -> None:
    console = answers()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "pictures", "accuracy", "loss", "macro F1"):
        table.add_column(heading, justify="right" if heading else "left")
    for split, one in result.metrics.items():
        bold = "bold" if split == result.held_out else ""
        cells = (
            f"{one.pictures:,}",
            f"{one.accuracy:.1%}",
            f"{one.loss:.3f}",
            f"{one.macro_f1:.3f}",
        )
        table.add_row(split, *cells, style=bold)
    console.print(table)
    hardest = sorted(result.per_class, key=lambda one: (one.f1 is None, one.f1))[:_SHOWN_CLASSES]
    if len(result.per_class) > 2 and any((one.f1 or 0) < 1 for one in hardest):
        named = ", ".join(f"{one.label} {one.f1 or 0:.2f}" for one in hardest)
        console.print(f"[dim]hardest classes by F1: {escape(named)}[/]")
    spent = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items() if value >= 1)
    console.print(f"[dim]seconds: {spent or 'under 1'}[/]")
    mark = "[green]✓[/]" if result.promoted else "[yellow]![/]"
    champion = "is champion" if result.promoted else "is not champion"
    console.print(
        f"{mark} {result.model} version {result.version} {champion}. "
        f"{escape(result.promotion.reason)}"
    )
    console.print(f"pictures: {escape(str(pictures))}", soft_wrap=True)


_NETWORK = "efficientnet_lite0"
_AUGMENTATION = {
    "rotation": 15,
    "width_shift": 0.1,
    "height_shift": 0.1,
    "zoom": 0.15,
    "horizontal_flip": True,
}


def wishes(
    options: str | None, *, augment: bool, epochs: int | None, **fields: Any
) -> dict[str, Any]:
    """The fields that were asked for, and no others: those left out are the preset's.

    Args:
        options: Further fields, as a JSON object.
        augment: Whether to vary pictures moderately.
        epochs: For each of the phases.
        fields: By their names in the API; None where not asked for.

    Raises:
        CommandError: The options are no JSON object.
    """
    asked = {name: value for name, value in fields.items() if value is not None}
    if epochs is not None:
        asked["epochs"] = dict.fromkeys(Epochs.model_fields, epochs)
    if augment:
        asked["augmentation"] = dict(_AUGMENTATION)
    if "preset" not in asked:
        asked.setdefault("network", _NETWORK)
    return asked | _object(options)


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise CommandError(f"--options is no JSON: {error}.", exit_code=2) from None
    if not isinstance(found, dict):
        raise CommandError("--options takes an object, e.g. '{\"l2\": 0.0001}'.", exit_code=2)
    return found
