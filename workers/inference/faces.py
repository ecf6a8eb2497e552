"""The operation `faces`: images of any size in, their faces and embeddings out."""

from base64 import b64encode
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from contracts.faces.faces import FacesReply, FacesRequest
from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from workers.inference.loaded_models import Predictor
from workers.inference.queue import Cancellation, ItemOutput

if TYPE_CHECKING:
    from models.faces.detection.finder import FaceFinder, FoundFaces

_NO_EMBEDDINGS = np.zeros(0, np.float32)
_TOO_LATE = (
    "Finding the faces took longer than the deadline. Allow more in X-Timeout-Ms, or "
    "send fewer images at once."
)


class FacesOperation:
    """Finds faces and embeds them; see `workers.inference.batcher.OperationHandler`.

    Args:
        open_finder: Loads the face finder; raises `WeightsMissing` if its weights are missing.
        cancellation: Ends the work when no client waits any more.
    """

    def __init__(self, open_finder: "Callable[[], FaceFinder]", cancellation: Cancellation) -> None:
        self._open_finder = open_finder
        self._cancellation = cancellation
        self._opening = Lock()
        self._finder: FaceFinder | None = None

    def finder(self) -> "FaceFinder":
        """The face finder, loaded on the first call. Only the thread that computes may use it.

        Raises:
            WeightsMissing: Its weights are not on this machine.
        """
        with self._opening:
            if self._finder is None:
                self._finder = self._open_finder()
            return self._finder

    def compute(
        self,
        queue: QueueName,  # noqa: ARG002  there is only one
        predictor: Predictor,
        items: Sequence[Item],
        run_faster: Callable[[], None],
    ) -> Sequence[ItemOutput]:
        """One output for each item; faster queues are answered between two images.

        Raises:
            OpsinError: The worker stops, or no client waits any more.
        """
        request = FacesRequest.model_validate_json(items[0].note)
        finder = self.finder()
        outputs = []
        for index, item in enumerate(items):
            if index:
                run_faster()
                self._cancellation.check(items, late=_TOO_LATE)
            found = finder.find(item.pixels, request.max_faces)
            crops = found.crops if request.embed else found.crops[:0]
            vector = predictor.run("embed", crops).ravel() if len(crops) else _NO_EMBEDDINGS
            reply = FacesReply(
                faces=tuple(detected.face for detected in found.faces),
                total=found.total,
                portrait=_portrait(item, found) if request.portrait else None,
            )
            outputs.append(ItemOutput(vector, reply.pack()))
        return outputs


def _portrait(item: Item, found: "FoundFaces") -> str | None:
    from models.faces.portrait import crop_portrait  # loads OpenCV

    if not found.faces:
        return None
    return b64encode(crop_portrait(item.pixels, found.faces[0].face.box)).decode()
