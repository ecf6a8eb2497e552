"""Explanations on the lanes: from the SavedModel where it can, by the Keras model where it must.

The Keras models behind the slower explanations: loaded when first asked for, few at a time.

A worker serves from SavedModels and needs no Keras. What does need it is loaded beside the work,
by a thread of its own, while the worker goes on to answer those who need only a moment. Who waits
may give up, and another may ask meanwhile: a load that is under way is joined, never begun twice.
"""

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from contracts.errors import DeadlineExceeded, Draining
from contracts.queue.explain_messages import MapAsk, read_ask
from contracts.queue.messages import Item
from workers.inference.loaded_models import Predictor
from workers.inference.queue import Answer, LaneName

if TYPE_CHECKING:
    from models.explain.explainer import Explainer

Key = tuple[str, int]


class Explainers:
    """Those of one worker. Belongs to the thread that computes.

    Args:
        load: Reads one version's and runs it once.
        most: How many are kept; the one that was asked for longest ago goes first.
        is_held: Whether the worker still serves a version; what it does not is let go.

    Attributes:
        traces: Graphs that those kept had traced when one was last asked for. Other threads may
            read it.
    """

    def __init__(
        self,
        load: "Callable[[str, int], Explainer]",
        most: int,
        is_held: Callable[[str, int], bool],
    ) -> None:
        self._load = load
        self.traces = 0
        self._most = most
        self._is_held = is_held
        self._kept: OrderedDict[Key, Explainer] = OrderedDict()
        self._loading: dict[Key, Future[Explainer]] = {}
        self._beside: dict[Hashable, Future[Any]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explainers")

    def __len__(self) -> int:
        """How many are kept or being loaded."""
        return len(self._kept) + len(self._loading)

    def get(self, model: str, version: int, between: Callable[[], None]) -> "Explainer":
        """The version's, loaded if need be.

        Args:
            model: Its name.
            version: Its number.
            between: Called again and again while it loads; it may ask for others, and it may
                raise to stop the waiting: what is being loaded then is the next one's who asks.
        """
        key = (model, version)
        self._tidy()
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._loading:
            self._make_room()
            self._loading[key] = self._thread.submit(partial(self._loaded, model, version))
        future = self._loading[key]
        _wait(future, between)
        self._tidy()
        return future.result()

    def load_beside(
        self, key: Hashable, load: Callable[[], None], between: Callable[[], None]
    ) -> None:
        """Have `load` run by the thread that loads.

        Args:
            key: Who asks with the key of a load that is under way joins that one.
            load: What is to be done.
            between: As for `get`.
        """
        self._tidy()
        if key not in self._beside:
            self._beside[key] = self._thread.submit(load)
        future = self._beside[key]
        _wait(future, between)
        self._tidy()
        future.result()

    def _loaded(self, model: str, version: int) -> "Explainer":
        """Runs in the thread that loads."""
        began = time.monotonic()
        explainer = self._load(model, version)
        seconds = round(time.monotonic() - began, 2)
        log.info("explainer_loaded", model=model, version=version, seconds=seconds)
        return explainer

    def _tidy(self) -> None:
        """Keep what was loaded meanwhile, and let go of versions that were taken out."""
        for done in [key for key, future in self._beside.items() if future.done()]:
            del self._beside[done]
        for key in [key for key, future in self._loading.items() if future.done()]:
            future = self._loading.pop(key)
            if future.exception() is None:  # else it is the waiting one's, or tried again
                self._make_room()
                self._kept[key] = future.result()
        for key in [key for key in self._kept if not self._is_held(*key)]:
            self._drop(key)
        self.traces = sum(one.traces for one in self._kept.values())

    def _make_room(self) -> None:
        """For one more; those being loaded count, but cannot be dropped."""
        while self._kept and len(self) >= self._most:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: Key) -> None:
        del self._kept[key]
        log.info("explainer_dropped", model=key[0], version=key[1])
        gc.collect()  # a model and its functions refer to one another


class Explaining:
    """Answers the lanes that explain, see `workers.inference.batcher.Answerer`.

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
            from models.explain.answer import Answering

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


log = structlog.get_logger()

_POLL_SECONDS = 0.005

"""A model and the number of a version."""


def _wait(future: "Future[Any]", between: Callable[[], None]) -> None:
    while not future.done():
        between()
        time.sleep(_POLL_SECONDS)
