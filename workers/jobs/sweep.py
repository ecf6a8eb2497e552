"""The sweep job: trainings one after another, then waits until the best version answers."""

from collections.abc import Callable
from typing import Any

from contracts.inference.serving import Serving
from contracts.settings import Settings
from contracts.work import Work
from models.training.sweeps import run as sweeps
from workers.jobs.serving import wait_until_served


def run(work: Work, settings: Settings) -> dict[str, Any]:
    """Run `models.training.sweeps.run.run`.

    Raises:
        OpsinError: No training was possible.
        WorkStoppedError: The job was stopped.
    """

    def until_served(model: str, version: int, report: Callable[[], None]) -> Serving | None:
        return wait_until_served(work, settings, model, version, report=report)

    return sweeps.run(work, settings, until_served)
