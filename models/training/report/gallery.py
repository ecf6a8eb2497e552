"""The pictures that a training leaves behind: as artifacts of its job, and in TensorBoard."""

from collections.abc import Sequence

import keras
import numpy as np

from contracts.work import Work
from models.training.report.confusion_chart import confusion_chart
from models.training.report.curves_chart import curves_chart
from models.training.report.event_log import EventLog
from models.training.report.filters_film import filters_film
from models.training.report.mistakes_sheet import Explained, mistakes_sheet
from models.training.report.report import held_out_split
from models.training.report.scores import confusion
from models.training.trained import Trained

CURVES = "curves.png"
CONFUSION_MATRIX = "confusion_matrix.png"
MISTAKES = "mistakes.png"
FILTERS = "filters.gif"
EVENT_LOG = "tensorboard.zip"


def draw(
    work: Work, log: EventLog, trained: Trained, explained: Sequence[Explained] | None
) -> None:
    """Draw all of them, give them to the job, and end the log.

    Args:
        work: The job.
        log: For TensorBoard.
        trained: What was learned.
        explained: The surest mistakes; None if nobody may see the pictures.
    """
    split = held_out_split(trained)
    held = trained.evaluations[split]
    counts = confusion(held.probabilities, held.truth.astype(np.int64))
    labels = [label.text for label in trained.labels]
    pictures = {
        CURVES: curves_chart(trained.history, trained.best_epochs),
        CONFUSION_MATRIX: confusion_chart(counts, labels, split),
    }
    if explained is not None:
        pictures[MISTAKES] = mistakes_sheet(explained)
    for name, png in pictures.items():
        work.artifact(name, "image/png", png)
        log.picture(name.removesuffix(".png"), png)
    if trained.filters:
        film = filters_film(trained.filters, _filmed_layer(trained))
        work.artifact(FILTERS, "image/gif", film)
    spec = trained.request.model_dump_json(indent=2)
    log.text("request", f"```json\n{spec}\n```")
    work.artifact(EVENT_LOG, "application/zip", log.close())


def _filmed_layer(trained: Trained) -> str:
    """As the trainer chooses it: the one that was named, or the first convolution."""
    convolutions = (la.name for la in trained.model.layers if isinstance(la, keras.layers.Conv2D))
    return trained.request.filters_layer or next(convolutions)
