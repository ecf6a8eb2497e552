"""The operations `heatmap`, `explain` and `study`.

A worker serves SavedModels and needs no Keras. Only the slower explanations need the Keras model of
a version. It is loaded on first use, in a separate thread, while the worker goes on to answer
faster queues; few are kept at a time. The client that caused a load may give up and another may ask
for the same meanwhile: a load in progress is joined, never begun twice.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from contracts.garbage import collect_all
from contracts.queue.explain_messages import ExplainRequest, parse_request
from contracts.queue.messages import Item
from contracts.queue.redis_keys import QueueName
from workers.inference.loaded_models import LoadedModels, Predictor
from workers.inference.queue import Cancellation, ItemOutput

if TYPE_CHECKING:
    from models.explain.explainer import Explainer
    from models.explain.results import EncodedReply, Indices

log = structlog.get_logger()

_POLL_SECONDS = 0.005
_TOO_LATE = (
    "The explanation took longer than the deadline. Allow more in X-Timeout-Ms, or "
    "ask for a job with Prefer: respond-async."
)

VersionKey = tuple[str, int]
"""A model and the number of a version."""


class ExplainOperation:
    """Computes explanations; see `workers.inference.batcher.OperationHandler`."""

    def __init__(self, explainers: "ExplainerCache", cancellation: Cancellation) -> None:
        self._explainers = explainers
        self._cancellation = cancellation

    def compute(
        self,
        queue: QueueName,
        predictor: Predictor,
        items: Sequence[Item],
        run_faster: Callable[[], None],
    ) -> Sequence[ItemOutput]:
        """One output for each item.

        Raises:
            OpsinError: The request cannot be answered, or no client waits for the reply any more.
        """
        request = parse_request(items[0].note)
        images = np.stack([item.pixels for item in items])
        classes = np.array([item.class_index for item in items], np.int32)

        def between() -> None:
            run_faster()
            self._cancellation.check(items, late=_TOO_LATE)

        if queue.operation == "heatmap" and isinstance(request, ExplainRequest):
            replies = self._from_saved_model(request, predictor, images, classes, between)
        else:
            explainer = self._explainers.get(queue.model, queue.version, between)
            # Imports Keras; loading the explainer has imported it in the other thread.
            from models.explain.answer import ExplainReplyBuilder

            method = request.method if isinstance(request, ExplainRequest) else None
            what = (method, request.layer)
            if not explainer.is_warm(*what):
                warm_up = partial(explainer.warm_up, *what)
                self._explainers.run_in_background((explainer, *what), warm_up, between)
            layer = predictor.manifest.explain_layer
            replies = ExplainReplyBuilder(explainer, layer, between).build(request, images, classes)
        return [ItemOutput(vector, note) for vector, note in replies]

    def _from_saved_model(
        self,
        request: ExplainRequest,
        predictor: Predictor,
        images: "np.ndarray[Any, Any]",
        classes: "Indices",
        between: Callable[[], None],
    ) -> "list[EncodedReply]":
        hires = request.method == "hires_cam"
        if not predictor.can_explain(hires=hires):
            load = partial(predictor.load_explain, hires=hires)
            self._explainers.run_in_background((predictor, hires), load, between)
        explanations = predictor.explain(images, classes, hires=hires)
        return explanations.encode(predictor.manifest.explain_layer)


class ExplainerCache:
    """The Keras models of one worker. Used only by the thread that computes.

    Args:
        load: Loads the explainer of one version and runs it once.
        max_explainers: How many are kept; the least recently used one goes first.
        models: The versions that the worker serves; explainers of others are dropped.

    Attributes:
        traces: How many graphs the explainers had traced when one was last requested. Other
            threads may read it.
    """

    def __init__(
        self,
        load: "Callable[[str, int], Explainer]",
        max_explainers: int,
        models: LoadedModels,
    ) -> None:
        self.traces = 0
        self._load = load
        self._max_explainers = max_explainers
        self._models = models
        self._explainers: OrderedDict[VersionKey, Explainer] = OrderedDict()
        self._loading: dict[VersionKey, Future[Explainer]] = {}
        self._background: dict[Hashable, Future[Any]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explainers")

    def __len__(self) -> int:
        """How many are in memory or being loaded."""
        return len(self._explainers) + len(self._loading)

    def get(self, model: str, version: int, between: Callable[[], None]) -> "Explainer":
        """The explainer of a version, loaded if necessary.

        Args:
            model: Its name.
            version: Its number.
            between: Called repeatedly while it loads. It may request other explainers, and it may
                raise to stop waiting: then the next caller joins the load.
        """
        key = (model, version)
        self._collect()
        if key in self._explainers:
            self._explainers.move_to_end(key)
            return self._explainers[key]
        if key not in self._loading:
            self._make_room()
            self._loading[key] = self._thread.submit(self._load_version, model, version)
        future = self._loading[key]
        _wait(future, between)
        self._collect()
        return future.result()

    def run_in_background(
        self, key: Hashable, work: Callable[[], None], between: Callable[[], None]
    ) -> None:
        """Run `work` in the thread that loads, and wait for it.

        Args:
            key: A call with the key of work in progress joins that work.
            work: What to run.
            between: As for `get`.
        """
        self._collect()
        if key not in self._background:
            self._background[key] = self._thread.submit(work)
        future = self._background[key]
        _wait(future, between)
        self._collect()
        future.result()

    def _load_version(self, model: str, version: int) -> "Explainer":
        """Runs in the thread that loads."""
        began = time.monotonic()
        explainer = self._load(model, version)
        seconds = round(time.monotonic() - began, 2)
        log.info("explainer_loaded", model=model, version=version, seconds=seconds)
        return explainer

    def _collect(self) -> None:
        """Keep what has been loaded, and drop explainers of versions that are no longer served."""
        for done in [key for key, future in self._background.items() if future.done()]:
            del self._background[done]
        for key in [key for key, future in self._loading.items() if future.done()]:
            future = self._loading.pop(key)
            if future.exception() is None:  # otherwise the waiting caller gets the exception
                self._make_room()
                self._explainers[key] = future.result()
        for key in [key for key in self._explainers if self._models.get(*key) is None]:
            self._drop(key)
        self.traces = sum(explainer.traces for explainer in self._explainers.values())

    def _make_room(self) -> None:
        """Make room for one more; those being loaded count, but cannot be dropped."""
        while self._explainers and len(self) >= self._max_explainers:
            self._drop(next(iter(self._explainers)))

    def _drop(self, key: VersionKey) -> None:
        del self._explainers[key]
        log.info("explainer_dropped", model=key[0], version=key[1])
        collect_all()  # a model and its functions refer to one another


def _wait(future: "Future[Any]", between: Callable[[], None]) -> None:
    while not future.done():
        between()
        time.sleep(_POLL_SECONDS)
