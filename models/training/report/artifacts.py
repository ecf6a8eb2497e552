"""Writes charts and tables of a training: as artifacts of its job, and into the TensorBoard log."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from contracts.work import Work
from models.training.report.confusion_chart import confusion_chart
from models.training.report.curves_chart import curves_chart
from models.training.report.event_log import EventLog
from models.training.report.filters_animation import filters_animation, response_animation
from models.training.report.mistakes_sheet import ExplainedMistake, mistakes_sheet
from models.training.report.predictions import PREDICTIONS, predictions_table
from models.training.report.report import held_out_split
from models.training.report.scores import confusion
from models.training.trained import TrainedModel

CURVES = "curves.png"
CONFUSION_MATRIX = "confusion_matrix.png"
MISTAKES = "mistakes.png"
FILTERS = "filters.gif"
RESPONSE = "response.gif"
EVENT_LOG = "tensorboard.zip"
AUGMENTATION = "augmentation.png"


def write_artifacts(
    work: Work,
    log: EventLog,
    trained: TrainedModel,
    mistakes: Sequence[ExplainedMistake] | None,
    names: Mapping[str, str],
) -> None:
    """Draw all charts, add them to the job, and close the log.

    Args:
        work: The job.
        log: The TensorBoard log.
        trained: The trained network.
        mistakes: The mistakes to show; None if the images are private.
        names: Original file names by SHA-256.
    """
    split = held_out_split(trained)
    held_out = trained.evaluations[split]
    counts = confusion(held_out.probabilities, held_out.truth.astype(np.int64))
    labels = [label.text for label in trained.labels]
    charts = {
        CURVES: curves_chart(trained.history, trained.best_epochs),
        CONFUSION_MATRIX: confusion_chart(counts, labels, split),
    }
    if mistakes is not None:
        charts[MISTAKES] = mistakes_sheet(mistakes)
        work.artifact(PREDICTIONS, "text/csv", predictions_table(held_out, labels, names))
    for name, png in charts.items():
        work.artifact(name, "image/png", png)
        log.image(name.removesuffix(".png"), png)
    if trained.filters:
        animation = filters_animation(trained.filters, _recorded_layer(trained))
        work.artifact(FILTERS, "image/gif", animation)
    if trained.responses and mistakes is not None:
        animation = response_animation(trained.responses, _recorded_layer(trained))
        work.artifact(RESPONSE, "image/gif", animation)
    spec = trained.request.model_dump_json(indent=2)
    log.text("request", f"```json\n{spec}\n```")
    work.artifact(EVENT_LOG, "application/zip", log.close())


def _recorded_layer(trained: TrainedModel) -> str:
    """The requested layer or, as in `FilterRecorder.of`, the first convolution."""
    convolutions = (la.name for la in trained.model.layers if isinstance(la, keras.layers.Conv2D))
    return trained.request.filters_layer or next(convolutions)
