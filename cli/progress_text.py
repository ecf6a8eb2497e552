"""The words for the progress of a job: its phases, and a row of its metrics."""

from collections.abc import Mapping
from typing import Any

PHASES: Mapping[str, str] = {
    "start": "starting",
    "memory": "waiting for memory",
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


def epoch_text(row: Mapping[str, Any], epochs: object = None) -> str | None:
    """A line for an epoch of a training; None for other rows of metrics.

    Args:
        epochs: How many the phase has, if that is known.
    """
    if not {"phase", "epoch", "loss", "accuracy"} <= row.keys():
        return None
    of_total = f"/{epochs}" if epochs else ""
    line = f"{phase_text(str(row['phase'])):<12} {row['epoch']:>3}{of_total}"
    line += f"   training: loss {row['loss']:.3f}, accuracy {row['accuracy']:6.1%}"
    if row.get("val_loss") is not None:
        line += f"   validation: loss {row['val_loss']:.3f}, accuracy {row['val_accuracy']:6.1%}"
    return line


def stopped_early(row: Mapping[str, Any]) -> str | None:
    """A sentence for the last epoch of a phase that ended early; None for other rows of metrics."""
    if not row.get("stopped_early"):
        return None
    phase = phase_text(str(row.get("phase")))
    return f"{phase}: stopped after {row.get('epoch')} epochs, as it no longer improved"
