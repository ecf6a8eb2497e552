"""A training's work over a terminal: bars and lines for its progress, files for its artifacts.

A shelf is what the job table is in a service: it gives the same request the same unfinished job.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from cli.output import CommandError, readable
from cli.processes.signals import StopSignals
from contracts.errors import Unavailable
from contracts.jobs import Progress as JobProgress
from contracts.training.trainings import TrainingRequest
from contracts.work import WorkStoppedError
from models.store.locks import locked
from models.store.manifest import write_atomically

_JOB = "job.json"
_PHASES = {
    "data": "reading the dataset",
    "features": "features of the frozen base",
    "head": "head",
    "finetune": "fine-tuning",
    "scratch": "from scratch",
    "evaluate": "measuring",
    "export": "exporting",
    "report": "drawing the report",
    "publish": "publishing",
    "promote": "publishing",
}


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where a training from the command line keeps its things.

    Attributes:
        job_id: The same for the same request until it has ended well.
        attempt: From 1.
        folder: For checkpoints; gone in the end.
        pictures: For what it leaves behind.
    """

    job_id: str
    attempt: int
    folder: Path
    pictures: Path

    @classmethod
    def of(cls, root: Path, request: TrainingRequest) -> Self:
        """The shelf of a request, which may have been begun before."""
        key = hashlib.sha256(request.model_dump_json().encode()).hexdigest()[:16]
        folder = root / "unfinished" / key
        folder.mkdir(parents=True, exist_ok=True)
        try:
            known = json.loads((folder / _JOB).read_bytes())
        except FileNotFoundError:
            known = {"id": f"job_{secrets.token_hex(8)}", "attempt": 0}
        known["attempt"] += 1
        write_atomically(folder / _JOB, json.dumps(known))
        return cls(known["id"], known["attempt"], folder, root / known["id"])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Alone with it.

        Raises:
            CommandError: Another terminal is at the same training.
        """
        lock = self.folder.with_suffix(".lock")
        try:
            with locked(lock, timeout=0.1):
                yield
        except Unavailable:
            raise CommandError("This very training runs in another terminal.") from None

    def finish(self) -> None:
        """Forget the checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(".lock").unlink(missing_ok=True)


class TerminalWork:
    """A `contracts.work.Work` that shows itself; use it as a context manager.

    Args:
        shelf: Where its things are.
        request: What is asked for.
        console: Where to show.
        signals: Ctrl-C and its like.
    """

    def __init__(
        self, shelf: Shelf, request: TrainingRequest, console: Console, signals: StopSignals
    ) -> None:
        self.job_id, self.attempt, self.folder = shelf.job_id, shelf.attempt, shelf.folder
        self.request: dict[str, Any] = request.model_dump(mode="json")
        self._pictures, self._signals = shelf.pictures, signals
        self._epochs = request.epochs.model_dump()
        self._phase: str | None = None
        self._told: set[tuple[Any, Any]] = set()
        self._bar = Progress(
            TextColumn("{task.description}", table_column=None),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("[dim]{task.fields[left]}[/]"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, left="")
        self._console = console

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, what: str) -> None:
        """Show what is waited for."""
        self._bar.update(self._task, description=escape(what))

    def progress(self, progress: JobProgress) -> None:
        self.check()
        what = _PHASES.get(progress.phase or "", progress.phase or "")
        if progress.phase != self._phase:
            self._phase = progress.phase
            if not self._console.is_terminal:
                self._console.print(f"{what} …", markup=False)
        if progress.epoch is not None and progress.epochs is not None:
            what += f", epoch {progress.epoch} of {progress.epochs}"
        left = "" if progress.eta_seconds is None else f"{_clock(progress.eta_seconds)} left"
        self._bar.update(
            self._task, completed=progress.fraction, description=escape(what), left=left
        )

    def metrics(self, row: dict[str, Any]) -> None:
        key = (row.get("phase"), row.get("epoch"))
        if key in self._told:
            return
        self._told.add(key)
        phase = str(row.get("phase"))
        line = f"{_PHASES.get(phase, phase):<12} {row['epoch']:>3}/{self._epochs.get(phase, '?')}"
        line += f"   training {row['loss']:.3f} {row['accuracy']:6.1%}"
        if row.get("val_loss") is not None:
            line += f"   validation {row['val_loss']:.3f} {row['val_accuracy']:6.1%}"
        self._bar.console.print(readable(self._console, line), markup=False, highlight=False)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:  # noqa: ARG002
        self._pictures.mkdir(parents=True, exist_ok=True)
        draft = self._pictures / f".{name}"
        draft.write_bytes(content)
        draft.rename(self._pictures / name)

    def check(self) -> None:
        if self._signals.asked():
            raise WorkStoppedError


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
