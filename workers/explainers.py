"""The Keras models behind the slower explanations: loaded when first asked for, few at a time.

A worker serves from SavedModels and needs no Keras. What does need it is loaded beside the work,
by a thread of its own, while the worker goes on to answer those who need only a moment.
"""

import gc
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

if TYPE_CHECKING:
    from models.explain.explainer import Explainer

log = structlog.get_logger()

T = TypeVar("T")
_POLL_SECONDS = 0.005


class Explainers:
    """Those of one worker. Belongs to the thread that computes.

    Args:
        load: Reads one version's and runs it once.
        most: How many are kept; the one that was asked for longest ago goes first.
    """

    def __init__(self, load: "Callable[[str, int], Explainer]", most: int) -> None:
        self._load = load
        self._most = most
        self._kept: OrderedDict[tuple[str, int], Explainer] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explainers")

    def get(self, model: str, version: int, between: Callable[[], None]) -> "Explainer":
        """The version's, loaded if need be.

        Args:
            model: Its name.
            version: Its number.
            between: Called again and again while it loads; it may raise to stop the waiting, and
                what was loaded by then is kept for the next one.
        """
        key = (model, version)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        while len(self._kept) >= self._most:
            dropped, _ = self._kept.popitem(last=False)
            log.info("explainer_dropped", model=dropped[0], version=dropped[1])
            gc.collect()  # a model and its functions refer to one another
        began = time.monotonic()
        self._kept[key] = self.load_beside(partial(self._load, model, version), between)
        seconds = round(time.monotonic() - began, 2)
        log.info("explainer_loaded", model=model, version=version, seconds=seconds)
        return self._kept[key]

    def load_beside(self, load: Callable[[], T], between: Callable[[], None]) -> T:
        """What `load` returns, run by the thread that loads; `between` is as for `get`."""
        future: Future[T] = self._thread.submit(load)
        while not future.done():
            between()
            time.sleep(_POLL_SECONDS)
        return future.result()
