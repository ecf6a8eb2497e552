"""The words for the progress of a job: its phases, and a row of its metrics."""

from collections.abc import Mapping
from typing import Any

PHASES: Mapping[str, str] = {
    "start": "starting",
    "loading": "loading TensorFlow",
    "data": "reading the dataset",
    "build": "building the network",
    "features": "features of the frozen base",
    "head": "head",
    "finetune": "fine-tuning",
    "scratch": "from scratch",
    "evaluate": "measuring",
    "export": "exporting",
    "check": "measuring what is served",
    "report": "drawing the report",
    "publish": "publishing",
    "promote": "publishing",
    "load": "waiting for the workers to load it",
}


def phase_text(phase: str | None) -> str:
    """What a job does in a phase; an unknown phase is its own name."""
    return PHASES.get(phase or "", phase or "")


def stopped_early(row: Mapping[str, Any], epochs: int | None = None) -> str | None:
    """A sentence for the last epoch of a phase that ended early; None for other rows.

    Args:
        row: A row of metrics.
        epochs: The maximum, if it is known.
    """
    if not row.get("stopped_early"):
        return None
    of_all = f" of {epochs}" if epochs else ""
    phase = phase_text(str(row.get("phase")))
    return f"{phase} ended early, after epoch {row.get('epoch')}{of_all}: no more improvement"
