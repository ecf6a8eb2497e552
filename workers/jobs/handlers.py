"""Which function does which kind of long job. The module is imported in the job's own process.

A function takes the work and the settings, and returns the result as JSON:
``run(work: contracts.work.Work, settings: contracts.settings.Settings) -> dict[str, Any]``.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from contracts.settings import Settings
from contracts.work import Work

Function = Callable[[Work, Settings], dict[str, Any]]

KINDS: Mapping[str, str] = {
    "training": "workers.jobs.training:run",
    "dataset_import": "workers.jobs.dataset_import:run",
    "filters": "models.explain.filters_job:run",
    "heatmap": "models.explain.heatmap_job:run",
    "quantize": "models.export.quantization:run",
    "calibration": "models.faces.calibration.job:run",
    "enrollment": "workers.jobs.enrollment:run",
}

TABLE = "workers.jobs.handlers:KINDS"


def function_of(kind: str, table: str = TABLE) -> Function:
    """Import what does that kind of job.

    Args:
        kind: As in `contracts.jobs.JobKind`.
        table: ``module:name`` of a mapping like `KINDS`.

    Raises:
        ImportError: Nothing here does it, or the module lacks what it needs.
    """
    kinds: Mapping[str, str] = _named(table)
    if kind not in kinds:
        raise ImportError(f"{table} has no '{kind}'")
    function: Function = _named(kinds[kind])
    return function


def _named(address: str) -> Any:
    module, _, name = address.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ImportError(f"{module} has no {name}") from None
