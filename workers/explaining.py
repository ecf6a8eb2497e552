"""Explanations on the lanes: from the SavedModel where it can, by the Keras model where it must."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Event

import numpy as np

from contracts.errors import DeadlineExceeded, Draining
from contracts.messages import Item
from contracts.notes import MapAsk, read_ask
from workers.answers import Answer
from workers.explainers import Explainers
from workers.held import Predictor
from workers.lane import LaneName


class Explaining:
    """Answers the lanes that explain, see `workers.drain.Answerer`.

    Args:
        explainers: The Keras models.
        is_abandoned: Whether the client of an image has gone.
        stopping: Set when the worker was told to stop.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        explainers: Explainers,
        *,
        is_abandoned: Callable[[Item], bool],
        stopping: Event,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._explainers = explainers
        self._is_abandoned = is_abandoned
        self._stopping = stopping
        self._clock = clock

    def __call__(
        self,
        lane: LaneName,
        predictor: Predictor,
        items: Sequence[Item],
        give_way: Callable[[], None],
    ) -> Sequence[Answer]:
        """One answer an item.

        Raises:
            OpsinError: Nobody waits any more, or what was asked for is not there.
        """
        ask = read_ask(items[0].note)
        images = np.stack([item.pixels for item in items])
        classes = np.array([item.class_index for item in items], np.int32)
        layer = predictor.manifest.explain_layer

        def between() -> None:
            give_way()
            self._require_somebody(items)

        if lane.operation == "heatmap" and isinstance(ask, MapAsk):
            hires = ask.method == "hires_cam"
            if not predictor.can_explain(hires=hires):
                load = partial(predictor.load_explain, hires=hires)
                self._explainers.load_beside((predictor, hires), load, between)
            explained = predictor.explain(images, classes, hires=hires)
            told = explained.told(layer)
        else:
            explainer = self._explainers.get(lane.model, lane.version, between)
            # Imports Keras, which the loading has done by now, off this thread.
            from models.explain.answering import Answering  # noqa: PLC0415

            what = (ask.method if isinstance(ask, MapAsk) else None, ask.layer)
            if not explainer.is_rehearsed(*what):
                self._explainers.load_beside(
                    (explainer, *what), partial(explainer.rehearse, *what), between
                )
            told = Answering(explainer, layer, between).answer(ask, images, classes)
        return [Answer(vector, note) for vector, note in told]

    def _require_somebody(self, items: Sequence[Item]) -> None:
        """Raises if the worker stops or nobody waits for any of the answers."""
        if self._stopping.is_set():
            raise Draining("The worker is shutting down. Send the image again.")
        now = self._clock()
        if all(item.deadline <= now or self._is_abandoned(item) for item in items):
            raise DeadlineExceeded(
                "The explanation took longer than the deadline. Allow more in X-Timeout-Ms, or "
                "ask for a job with Prefer: respond-async."
            )
