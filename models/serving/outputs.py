"""Turns a network's numbers into named classes or an embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contracts.errors import InternalError, OpsinError
from contracts.inference.inference import Prediction, VectorOperation
from contracts.queue.messages import Reply, Vector
from models.store.labels import Label

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Output:
    """The output for one image: one of the two."""

    predictions: list[Prediction] | None = None
    embedding: list[float] | None = None


@dataclass(frozen=True, slots=True)
class OutputReader:
    """Reads the vectors of one request.

    Attributes:
        operation: `classify` or `embed`.
        top_k: The largest number of predictions.
        labels: The name of each class, in the network's order.
    """

    operation: VectorOperation
    top_k: int
    labels: Sequence[Label]

    def read(self, vector: Vector) -> Output:
        """The output for one image.

        Args:
            vector: Probabilities (classes,) or features (n,), float32.

        Raises:
            InternalError: The numbers are not usable.
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
    best = _largest(probabilities, top_k)
    return [
        Prediction(
            index=index,
            id=labels[index].id,
            label=labels[index].text,
            # A softmax in half precision may round to a hair over 1.
            probability=min(1.0, max(0.0, float(probabilities[index]))),
        )
        for index in best
    ]


def _largest(values: Vector, count: int) -> list[int]:
    """Indices of the largest values, in descending order; of equal ones, the lower index first."""
    if count < len(values):
        # Sorting all of a thousand classes takes longer than selecting a few.
        least = np.partition(values, len(values) - count)[len(values) - count]
        candidates = np.flatnonzero(values >= least)
    else:
        candidates = np.arange(len(values))
    order = np.argsort(-values[candidates], kind="stable")[:count]
    chosen: list[int] = candidates[order].tolist()
    return chosen


def vector_of(reply: Reply | OpsinError) -> Vector:
    """The vector in the reply for one image.

    Raises:
        OpsinError: The reply is an error, or has no vector.
    """
    if isinstance(reply, OpsinError):
        raise reply
    if reply.vector is None:
        raise InternalError("The network gave nothing for this image.")
    return reply.vector


def matrix_of(replies: Sequence[Reply | OpsinError]) -> Matrix:
    """The vectors of all images: (n, k), float32.

    Raises:
        OpsinError: One of the replies is an error or has unusable numbers.
    """
    vectors = [vector_of(reply) for reply in replies]
    if len({len(vector) for vector in vectors}) != 1:
        raise InternalError("The network gave outputs of different lengths for these images.")
    matrix = np.stack(vectors)
    if not np.isfinite(matrix).all():
        raise InternalError("The network gave no usable numbers for these images.")
    return matrix
