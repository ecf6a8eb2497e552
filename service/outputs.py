"""What a network's numbers mean to a client: named classes, or an embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import InternalError, OpsinError, error_of
from contracts.inference import Operation, Prediction
from contracts.messages import Reply, Vector
from service.services import Label


@dataclass(frozen=True, slots=True)
class Output:
    """What one image came to: one of the two."""

    predictions: list[Prediction] | None = None
    embedding: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """Reads the replies of one request.

    Attributes:
        operation: What was asked for.
        top_k: Classes to tell, at most.
        labels: The name of each class, in the network's order.
    """

    operation: Operation
    top_k: int
    labels: Sequence[Label]

    def of(self, reply: Reply | OpsinError) -> Output:
        """What one reply holds.

        Raises:
            OpsinError: It holds an error, or numbers that mean nothing.
        """
        if isinstance(reply, OpsinError):
            raise reply
        if reply.error is not None:
            raise error_of(*reply.error)
        if reply.vector is None or not np.isfinite(reply.vector).all():
            raise InternalError("The network gave no usable numbers for this image.")
        if self.operation == "embed":
            return Output(embedding=reply.vector.tolist())
        if len(reply.vector) != len(self.labels):
            raise InternalError("The network and its labels do not belong together.")
        return Output(predictions=self._predictions(reply.vector))

    def _predictions(self, probabilities: Vector) -> list[Prediction]:
        """The most probable classes first; of equal ones, the lower index."""
        best = np.argsort(-probabilities, kind="stable")[: self.top_k]
        return [
            Prediction(
                index=int(index),
                id=self.labels[index].id,
                label=self.labels[index].text,
                # A softmax in half precision may round to a hair over 1.
                probability=min(1.0, max(0.0, float(probabilities[index]))),
            )
            for index in best
        ]
