"""What a network's numbers mean to a client: named classes, or an embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import InternalError
from contracts.inference import Operation, Prediction
from contracts.messages import Vector
from models.labels import Label


@dataclass(frozen=True, slots=True)
class Output:
    """What one image came to: one of the two."""

    predictions: list[Prediction] | None = None
    embedding: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """Reads what a network gave for one request.

    Attributes:
        operation: What was asked for.
        top_k: Classes to tell, at most.
        labels: The name of each class, in the network's order.
    """

    operation: Operation
    top_k: int
    labels: Sequence[Label]

    def of(self, vector: Vector) -> Output:
        """What one image's vector says.

        Args:
            vector: Probabilities (classes,) or features (n,), float32.

        Raises:
            InternalError: The numbers mean nothing.
        """
        if not np.isfinite(vector).all():
            raise InternalError("The network gave no usable numbers for this image.")
        if self.operation == "embed":
            return Output(embedding=vector.tolist())
        if len(vector) != len(self.labels):
            raise InternalError("The network and its labels do not belong together.")
        return Output(predictions=predictions_of(vector, self.labels, self.top_k))


def predictions_of(probabilities: Vector, labels: Sequence[Label], top_k: int) -> list[Prediction]:
    """The most probable classes first; of equal ones, the lower index."""
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        Prediction(
            index=int(index),
            id=labels[index].id,
            label=labels[index].text,
            # A softmax in half precision may round to a hair over 1.
            probability=min(1.0, max(0.0, float(probabilities[index]))),
        )
        for index in best
    ]
