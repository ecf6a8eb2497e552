"""The start of a training: its libraries are loaded, and what it will cost is known meanwhile.

Loading TensorFlow takes a fifth of a short training and minutes on a busy machine. The dataset is
listed before, so that from the first second there is a fraction and an estimate of the time left.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from contracts.errors import OpsinError
from contracts.settings import Settings
from contracts.training.trainings import TrainingRequest
from contracts.work import Work
from models.training.data.data_source import LibrarySource
from models.training.loop.costs import PLAN, costs_of, expected_seconds, stages_of
from models.training.loop.progress import ProgressReporter
from workers.jobs.context import LeasedWork


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Load the libraries of trainings, then run `workers.jobs.training.run`."""
    request = TrainingRequest.model_validate(work.request)
    started = psutil.Process().create_time()
    if isinstance(work, LeasedWork):
        started += work.paused_seconds
    seconds = {"start": time.time() - started}
    began = time.monotonic()
    with _reported(work, settings, request, seconds["start"]):
        from workers.jobs.training import run as train  # TensorFlow
    return train(work, settings, seconds | {"loading": time.monotonic() - began})


@contextmanager
def _reported(
    work: Work, settings: Settings, request: TrainingRequest, start_seconds: float
) -> Iterator[None]:
    """Report the loading as a stage of the training, if its dataset is at hand."""
    if request.dataset_id is None:
        yield
        return
    try:
        dataset = LibrarySource.of(request, settings).load().dataset
    except OpsinError:  # the training itself says so
        yield
        return
    stages = stages_of(request, dataset, starts=True, loads=True)
    expected = expected_seconds(work.folder / PLAN, costs_of(settings), stages)
    progress = ProgressReporter(work, expected)
    progress.elapsed("start", start_seconds)
    with progress.during("loading"):
        yield
