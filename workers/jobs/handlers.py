"""The handler of each kind of long job. Its module is imported in the job's own process.

A handler takes the work and the settings, and returns the result as JSON:
``run(work: contracts.work.Work, settings: contracts.settings.Settings) -> dict[str, Any]``.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from contracts.settings import Settings
from contracts.work import Work

Handler = Callable[[Work, Settings], dict[str, Any]]

KINDS: Mapping[str, str] = {
    "training": "workers.jobs.training_start:run",
    "sweep": "workers.jobs.sweep:run",
    "dataset_import": "workers.jobs.dataset_import:run",
    "dataset_video": "workers.jobs.dataset_video:run",
    "filters": "models.explain.filters_job:run",
    "heatmap": "models.explain.heatmap_job:run",
    "activations": "models.explain.activations_job:run",
    "evaluation": "models.evaluation.job:run",
    "quantize": "workers.jobs.quantization:run",
    "calibration": "models.faces.calibration.job:run",
    "face_detection": "models.faces.detection.job:run",
    "style_transfer": "models.create.style.job:run",
    "dream": "models.create.dream_job:run",
    "enrollment": "workers.jobs.enrollment:run",
}

TABLE = "workers.jobs.handlers:KINDS"


def load_handler(kind: str, table: str = TABLE) -> Handler:
    """Import the handler of a kind of job.

    Args:
        kind: A `contracts.jobs.JobKind`.
        table: ``module:name`` of a mapping like `KINDS`.

    Raises:
        ImportError: There is no such handler, or its module cannot be imported.
    """
    kinds: Mapping[str, str] = _import_object(table)
    if kind not in kinds:
        raise ImportError(f"{table} has no '{kind}'")
    handler: Handler = _import_object(kinds[kind])
    return handler


def _import_object(reference: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ImportError(f"{module} has no {name}") from None
