"""One run of a job that makes an image: progress, metrics, previews, checkpoints and its end.

A checkpoint holds everything that the next steps depend on, so that a job whose process was killed
ends with the image that it would have had. Previews and metrics are written in between and change
nothing.
"""

import contextlib
import os
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from contracts.create.requests import PREVIEW, RESULT
from contracts.files import free_bytes
from contracts.jobs import Progress
from contracts.settings import MIB
from contracts.work import Work, WorkStoppedError
from models.create.images import Pixels, png_file

Arrays = dict[str, npt.NDArray[Any]]
PNG = "image/png"
_CHECKPOINT = "checkpoint.npz"
_KEPT_BYTES = 512 * MIB  # of the disk, for other work
_MAX_ROWS = 300  # of metrics; the job's record holds all of them


class ImageWork(Work, Protocol):
    """A `Work` that takes a last file after it was cancelled."""

    def last_artifact(self, name: str, media_type: str, content: bytes) -> None:
        """As `artifact`, also if the job was cancelled, and never raises `WorkStoppedError`."""
        ...


class TimeUpError(Exception):
    """The request's `max_seconds` are over: what there is becomes the result."""


class ImageRun:
    """Reports the steps of one attempt.

    Args:
        steps: Of the whole job.
        settings: Written into every PNG.
        preview_every: Steps between two previews.
        max_seconds: Of the job, over all attempts; None for no limit.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        work: ImageWork,
        *,
        steps: int,
        settings: dict[str, Any],
        preview_every: int = 10,
        max_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._steps = steps
        self._preview_every = preview_every
        self._max_seconds = max_seconds
        self._settings = settings
        self._clock = clock
        self._began = clock()
        self._before = 0.0
        self._row_every = -(-steps // _MAX_ROWS)
        self._latest: Callable[[], Pixels] | None = None
        self._is_early = False
        self._done = 0

    @property
    def seconds(self) -> float:
        """Running time over all attempts, since the last checkpoint of each."""
        return self._before + self._clock() - self._began

    def check(self) -> None:
        """Check whether to continue.

        Raises:
            WorkStoppedError: The job was cancelled or is no longer ours.
            TimeUpError: Its time is over.
        """
        self._work.check()
        if self._max_seconds is not None and self.seconds > self._max_seconds:
            self._is_early = True
            raise TimeUpError

    def step(
        self,
        step: int,
        *,
        fraction: float,
        phase: str,
        row: Mapping[str, float],
        image: Callable[[], Pixels],
    ) -> None:
        """Report a step.

        Args:
            step: Its number, from 1.
            fraction: Of the job's whole cost that is done.
            phase: What is being done, such as the size.
            row: The step's losses by name.
            image: Makes the image as it is now.
        """
        self._latest, self._done = image, step
        if step % self._row_every == 0 or step == self._steps:
            self._work.metrics({"epoch": step, "phase": phase, "step": step, **row})
        if step % self._preview_every == 0 and step != self._steps:
            self._work.artifact(PREVIEW, PNG, png_file(image(), self._settings, fast=True))
        progress = Progress(fraction=fraction, phase=phase, step=step, steps=self._steps)
        self._work.progress(progress)

    def summary(self) -> dict[str, Any]:
        """How the run ended, for the job's result."""
        ended = "max_seconds" if self._is_early else "iterations"
        return {"steps": self._done, "ended_by": ended, "seconds": round(self.seconds, 1)}

    def finish(self, pixels: Pixels) -> None:
        """Store the result, which also is the last preview."""
        content = png_file(pixels, self._settings)
        self._work.artifact(PREVIEW, PNG, content)
        self._work.artifact(RESULT, PNG, content)

    @contextlib.contextmanager
    def keeping_latest(self) -> Any:
        """Keep the latest image if the job is cancelled inside."""
        try:
            yield
        except WorkStoppedError:
            if self._latest is not None:
                content = png_file(self._latest(), self._settings, fast=True)
                self._work.last_artifact(PREVIEW, PNG, content)
            raise

    def save(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Replace the checkpoint, atomically; not on a disk that is nearly full.

        The job then continues without it, and starts over if its process is killed.
        """
        size = sum(array.nbytes for array in arrays.values())
        if free_bytes(self._work.folder) < size + _KEPT_BYTES:
            return
        path = self._work.folder / _CHECKPOINT
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            np.savez(file, **cast("Any", {"seconds": np.array(self.seconds), **arrays}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def load(self) -> Arrays | None:
        """The checkpoint of an earlier attempt; None if there is none that can be read."""
        arrays = _read(self._work.folder / _CHECKPOINT)
        if arrays is not None:
            self._before = float(arrays.pop("seconds"))
        return arrays


def _read(path: Path) -> Arrays | None:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
