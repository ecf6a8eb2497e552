"""A training on a terminal: bars and lines for its progress, files for its artifacts.

A run folder does what the job table does in a service: the same request finds its unfinished job.
"""

import hashlib
import json
import secrets
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from cli.output import CommandError, clock_time, wrap
from cli.processes.signals import StopSignals
from cli.progress_text import epoch_text, phase_text
from contracts.jobs import Progress as JobProgress
from contracts.keys import SCOPES
from contracts.training.trainings import TrainingRequest, last_phase
from contracts.work import WorkStoppedError
from models.locks import locked
from models.store.manifest import write_atomically

_JOB = "job.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where a training from the command line keeps its files.

    Attributes:
        job_id: The same for the same request until that has succeeded.
        attempt: From 1.
        folder: For checkpoints; removed in the end.
        results: For the charts and reports that stay.
    """

    job_id: str
    attempt: int
    folder: Path
    results: Path

    @classmethod
    def of(cls, root: Path, request: TrainingRequest) -> Self:
        """The folder of a request, which may have been begun before."""
        key = hashlib.sha256(request.model_dump_json().encode()).hexdigest()[:16]
        folder = root / "unfinished" / key
        folder.mkdir(parents=True, exist_ok=True)
        try:
            job = json.loads((folder / _JOB).read_bytes())
        except FileNotFoundError:
            job = {"id": f"job_{secrets.token_hex(8)}", "attempt": 0}
        job["attempt"] += 1
        write_atomically(folder / _JOB, json.dumps(job))
        return cls(job["id"], job["attempt"], folder, root / job["id"])

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder alone.

        Raises:
            CommandError: The same training runs in another terminal.
        """
        error = CommandError("This training is running in another terminal.")
        return locked(self.folder.with_suffix(".lock"), timeout=0.1, error=error)

    def remove(self) -> None:
        """Remove the checkpoints."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(".lock").unlink(missing_ok=True)


class TerminalWork:
    """A `contracts.work.Work` that shows its progress; use it as a context manager.

    Attributes:
        at_peak: Called when the training has had all the memory that it trains with.
    """

    def __init__(
        self,
        run_folder: RunFolder,
        request: TrainingRequest,
        console: Console,
        signals: StopSignals,
    ) -> None:
        self.job_id, self.attempt = run_folder.job_id, run_folder.attempt
        self.folder = run_folder.folder
        self.request: dict[str, Any] = request.model_dump(mode="json")
        self.scopes: frozenset[str] = frozenset(SCOPES)  # of the operator
        self._results, self._signals = run_folder.results, signals
        self._epochs = request.epochs.model_dump()
        self._phase: str | None = None
        self.at_peak: Callable[[], None] | None = None
        self._printed_epochs: set[tuple[Any, Any]] = set()
        self._bar = Progress(
            TextColumn("{task.description}", table_column=None),
            BarColumn(bar_width=32),
            TextColumn("{task.percentage:>3.0f}%"),
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

    def show_status(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{text} …", markup=False)
        self._bar.update(self._task, description=escape(text))

    def progress(self, progress: JobProgress) -> None:
        self.check()
        text = phase_text(progress.phase)
        if progress.phase != self._phase:
            self._report_early_end()
            new = text != phase_text(self._phase)  # two phases may have one name
            self._phase = progress.phase
            if new and not self._console.is_terminal:
                self._console.print(f"{text} …", markup=False)
        if progress.epoch is not None and progress.epochs is not None:
            text += f", epoch {progress.epoch} of {progress.epochs}"
        left = "" if progress.eta_seconds is None else f"{clock_time(progress.eta_seconds)} left"
        self._bar.update(
            self._task, completed=progress.fraction, description=escape(text), left=left
        )

    def _report_early_end(self) -> None:
        """Say that the phase that has ended took fewer epochs than it might have."""
        planned = self._epochs.get(self._phase or "")
        done = max(
            (epoch for phase, epoch in self._printed_epochs if phase == self._phase), default=0
        )
        if planned and 0 < done < planned:
            name = phase_text(self._phase)
            self._bar.console.print(
                f"{name}: stopped after {done} of {planned} epochs, as it no longer improved",
                markup=False,
            )

    def metrics(self, row: dict[str, Any]) -> None:
        key = (row.get("phase"), row.get("epoch"))
        if key in self._printed_epochs:
            return
        self._printed_epochs.add(key)
        phase = str(row.get("phase"))
        # A resumed training first reports the epochs before, which other processes have trained.
        if self.attempt == 1 and self.at_peak is not None and phase == last_phase(self.request):
            self.at_peak()
            self.at_peak = None
        line = epoch_text(row, self._epochs.get(phase)) or ""
        self._bar.console.print(wrap(self._console, line), markup=False, highlight=False)

    def artifact(self, name: str, media_type: str, content: bytes) -> None:  # noqa: ARG002
        self._results.mkdir(parents=True, exist_ok=True)
        draft = self._results / f".{name}"
        draft.write_bytes(content)
        draft.rename(self._results / name)

    def check(self) -> None:
        if self._signals.stop_requested():
            raise WorkStoppedError
