"""The Keras models behind the slower explanations: loaded when first asked for, few at a time.

A worker serves from SavedModels and needs no Keras. What does need it is loaded beside the work,
by a thread of its own, while the worker goes on to answer those who need only a moment. Who waits
may give up, and another may ask meanwhile: a load that is under way is joined, never begun twice.
"""

import gc
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from models.explain.explainer import Explainer

log = structlog.get_logger()

_POLL_SECONDS = 0.005

Key = tuple[str, int]
"""A model and the number of a version."""


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


def _wait(future: "Future[Any]", between: Callable[[], None]) -> None:
    while not future.done():
        between()
        time.sleep(_POLL_SECONDS)
