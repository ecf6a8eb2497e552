"""The words for the progress of a job: its phases, and a row of its metrics."""

from collections.abc import Mapping
from typing import Any

PHASES: Mapping[str, str] = {
    "start": "starting",
    "loading": "loading libraries",
    "model": "reading the model",
    "watch": "finding the face",
    "embed": "measuring the face",
    "compare": "comparing it with other people",
    "explain": "computing the heatmap",
    "ascent": "following the gradient",
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


def stopped_early(row: Mapping[str, Any]) -> str | None:
    """A sentence for the last epoch of a phase that ended early; None for other rows of metrics."""
    if not row.get("stopped_early"):
        return None
    phase = phase_text(str(row.get("phase")))
    return f"{phase}: stopped after {row.get('epoch')} epochs, as it no longer improved"
