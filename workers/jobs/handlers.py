"""The handler of each kind of long job. Its module is imported in the job's own process.

A handler takes the work and the settings, and returns the result as JSON:
``run(work: contracts.work.Work, settings: contracts.settings.Settings) -> dict[str, Any]``.
An estimate takes the same, and returns the bytes of memory that the job will need.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from contracts.settings import Settings
from contracts.work import Work

Handler = Callable[[Work, Settings], dict[str, Any]]
Estimate = Callable[[Work, Settings], int]

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

MEMORY: Mapping[str, str] = {
    "training": "workers.jobs.estimates:training_bytes",
    "sweep": "workers.jobs.estimates:sweep_bytes",
    "dataset_import": "workers.jobs.estimates:image_bytes",
    "dataset_video": "workers.jobs.estimates:image_bytes",
    "filters": "workers.jobs.estimates:network_bytes",
    "heatmap": "workers.jobs.estimates:network_bytes",
    "activations": "workers.jobs.estimates:network_bytes",
    "evaluation": "workers.jobs.estimates:evaluation_bytes",
    "quantize": "workers.jobs.estimates:network_bytes",
    "calibration": "workers.jobs.estimates:image_bytes",
    "face_detection": "workers.jobs.estimates:image_bytes",
    "style_transfer": "workers.jobs.estimates:style_transfer_bytes",
    "dream": "workers.jobs.estimates:dream_bytes",
    "enrollment": "workers.jobs.estimates:no_bytes",
}
"""The estimate of the memory of each kind."""

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


def load_estimate(kind: str, table: str = TABLE) -> Estimate:
    """Import the estimate of a kind of job: of `MEMORY` in the module of the handlers' table.

    Raises:
        ImportError: As `load_handler`.
    """
    memory: Mapping[str, str] = _import_object(f"{table.partition(':')[0]}:MEMORY")
    if kind not in memory:
        raise ImportError(f"{table} has no estimate of '{kind}'")
    estimate: Estimate = _import_object(memory[kind])
    return estimate


def _import_object(reference: str) -> Any:
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ImportError(f"{module} has no {name}") from None
