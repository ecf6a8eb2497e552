"""`predictions.csv`: what every held-out image is, and what a version takes it for."""

import csv
import io
from collections.abc import Mapping, Sequence

from models.training.trained import Evaluation

PREDICTIONS = "predictions.csv"


def predictions_table(
    evaluation: Evaluation, labels: Sequence[str], names: Mapping[str, str]
) -> bytes:
    """A row for each image, as CSV in UTF-8.

    Args:
        evaluation: The images and the answers.
        labels: Names of the classes.
        names: Original file names by SHA-256.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", "sha256", "split", "label", "predicted", "probability", "correct"])
    for index, example in enumerate(evaluation.examples):
        row = evaluation.probabilities[index]
        predicted, truth = int(row.argmax()), int(evaluation.truth[index])
        writer.writerow(
            [
                *(names.get(example.sha256, example.path.name), example.sha256, example.split),
                *(labels[truth], labels[predicted]),
                *(f"{row[predicted]:.6f}", int(predicted == truth)),
            ]
        )
    return text.getvalue().encode()
