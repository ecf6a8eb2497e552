"""The lane `faces`: pictures of any size in, what is known of their faces out."""

import time
from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import TYPE_CHECKING

import numpy as np

from contracts.errors import DeadlineExceeded, Draining
from contracts.faces.faces import FacesAsk, FacesNote
from contracts.queue.messages import Item
from workers.inference.loaded_models import Predictor
from workers.inference.queue import Answer, LaneName

if TYPE_CHECKING:
    from models.faces.detection.finder import FaceFinder


class Faces:
    """Answers the lane `faces`, see `workers.inference.batcher.Answerer`.

    Args:
        open_finder: Reads what finds faces; raises `WeightsMissing` where its weights are not.
        is_abandoned: Whether the client of a picture has gone.
        stopping: Set when the worker was told to stop.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        open_finder: "Callable[[], FaceFinder]",
        *,
        is_abandoned: Callable[[Item], bool],
        stopping: Event,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open_finder = open_finder
        self._is_abandoned = is_abandoned
        self._stopping = stopping
        self._clock = clock
        self._opening = Lock()
        self._finder: FaceFinder | None = None

    def prepare(self) -> None:
        """Read what finds faces, once; safe among threads.

        Raises:
            WeightsMissing: It is not on this machine.
        """
        self.finder()

    def finder(self) -> "FaceFinder":
        """What finds faces; for the thread that computes.

        Raises:
            WeightsMissing: It is not on this machine.
        """
        with self._opening:
            if self._finder is None:
                self._finder = self._open_finder()
            return self._finder

    def __call__(
        self,
        lane: LaneName,  # noqa: ARG002  there is one only
        predictor: Predictor,
        items: Sequence[Item],
        give_way: Callable[[], None],
    ) -> Sequence[Answer]:
        """One answer an item; quicker lanes go first between two pictures.

        Raises:
            OpsinError: The worker stops, or nobody waits any more.
        """
        ask = FacesAsk.model_validate_json(items[0].note)
        finder = self.finder()
        answers = []
        for number, item in enumerate(items):
            if number:
                give_way()
                self._require_somebody(items)
            seen = finder.look(item.pixels, ask.most)
            chips = seen.chips if ask.embed else seen.chips[:0]
            vector = predictor.run("embed", chips).ravel() if len(chips) else _NOTHING
            note = FacesNote(faces=tuple(one.face for one in seen.faces), total=seen.total)
            answers.append(Answer(vector, note.pack()))
        return answers

    def _require_somebody(self, items: Sequence[Item]) -> None:
        if self._stopping.is_set():
            raise Draining("The worker is shutting down. Send the image again.")
        now = self._clock()
        if all(item.deadline <= now or self._is_abandoned(item) for item in items):
            raise DeadlineExceeded(
                "Finding the faces took longer than the deadline. Allow more in X-Timeout-Ms, or "
                "send fewer pictures at once."
            )


_NOTHING = np.zeros(0, np.float32)
