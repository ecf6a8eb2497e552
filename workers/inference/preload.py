"""Loads what the first heatmap needs while the worker is idle.

Heatmaps come from a separate graph, which has to be read, compiled, compared and run once. That
takes a second or two, and much longer if OpenVINO cannot read the graph, since TensorFlow is loaded
then. Here it is done before anyone asks for a heatmap, but after everything else: when all versions
are loaded, the worker has been idle for a while, and there is memory to spare. Of the versions that
share a base, a few are prepared, because the others need little more than what those have loaded.
"""

import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Literal, Protocol

import psutil
import structlog

from contracts.errors import Unavailable, VersionNotFound
from models.store.store import Store
from workers.inference.loaded_models import LoadedModels, Predictor

log = structlog.get_logger()

CHECK_SECONDS = 0.5
IDLE_SECONDS = 2.0
# Left for other processes, or for TensorFlow if it must explain (700 MB).
_SPARE_BYTES = 1_000_000_000
# The next check when memory was short; it costs little, and another process may have ended.
RETRY_SECONDS = 60.0
# So many versions of a shared base. Of a further one only the head is missing, so its first heatmap
# takes 0.3 s longer.
PRELOADED_HEADS = 8
# Weights are in memory once as pages of the file and once as they are computed with.
_COPIES = 2
_CGROUP = Path("/sys/fs/cgroup")

PreloadMode = Literal["auto", "on", "off"]


class IdleTime(Protocol):
    """How long the worker has been idle; `Batcher` is the implementation."""

    @property
    def idle_seconds(self) -> float: ...


class LoadingState(Protocol):
    """Whether a version is being loaded; `ModelManager` is the implementation."""

    @property
    def is_loading(self) -> bool: ...


class Preloader:
    """Loads the explain graphs of one worker, in a separate thread.

    Args:
        models: The versions in memory.
        store: Where their files are.
        mode: ``auto``: only if there is memory to spare.
        batcher: Says how long the worker has been idle.
        manager: Says whether a version is being loaded, which has priority.
        available: Bytes of memory that this process could still take.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        models: LoadedModels,
        store: Store,
        mode: PreloadMode,
        *,
        batcher: IdleTime,
        manager: LoadingState,
        available: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._store = store
        self._mode = mode
        self._batcher = batcher
        self._manager = manager
        self._available = available
        self._clock = clock
        self._failed: set[tuple[str, int]] = set()
        self._not_before: dict[tuple[str, int], float] = {}

    def run(self, stopping: Event) -> None:
        """Check again and again until told to stop."""
        if self._mode == "off":
            return
        while not stopping.wait(CHECK_SECONDS):
            self.run_once()

    def run_once(self) -> None:
        """Load the graph of one version, if there is one to load and now is the time."""
        if self._manager.is_loading or self._batcher.idle_seconds < IDLE_SECONDS:
            return
        versions = self._models.all()
        self._failed.intersection_update(versions)
        self._not_before = {
            key: seconds for key, seconds in self._not_before.items() if key in versions
        }
        predictors = [(key, self._models.get(*key)) for key in versions]
        explained = Counter(
            predictor.base.digest
            for _, predictor in predictors
            if predictor is not None and predictor.base is not None and predictor.can_explain()
        )
        for (model, version), predictor in predictors:
            if predictor is None or self._has_enough(predictor, explained):
                continue
            if self._should_load(model, version, predictor):
                self._load(model, version, predictor)
                return

    def _has_enough(self, predictor: Predictor, explained: Counter[str]) -> bool:
        """Whether many versions of a version's base are loaded, so that it would wait little."""
        if self._mode == "on" or predictor.base is None:
            return False
        return explained[predictor.base.digest] >= PRELOADED_HEADS

    def _should_load(self, model: str, version: int, predictor: Predictor) -> bool:
        if "heatmap" not in predictor.operations or predictor.can_explain():
            return False
        key, now = (model, version), self._clock()
        if key in self._failed or now < self._not_before.get(key, now):
            return False
        if self._mode == "on" or self._available() >= self._required_bytes(model, version):
            return True
        if key not in self._not_before:  # logged once
            log.info("explanations_not_preloaded", model=model, version=version, reason="memory")
        self._not_before[key] = now + RETRY_SECONDS
        return False

    def _required_bytes(self, model: str, version: int) -> float:
        try:
            variables = self._store.path(model, version) / "saved_model" / "variables"
            weights = sum(file.stat().st_size for file in variables.iterdir())
        except (OSError, VersionNotFound, Unavailable):  # deleted in the meantime
            return math.inf
        return _COPIES * weights + _SPARE_BYTES

    def _load(self, model: str, version: int, predictor: Predictor) -> None:
        began = time.monotonic()
        try:
            predictor.load_explain()
        except Exception:  # the next heatmap tries again, and its client gets the error
            self._failed.add((model, version))
            log.exception("explanations_not_preloaded", model=model, version=version)
            return
        log.info(
            "explanations_preloaded",
            model=model,
            version=version,
            seconds=round(time.monotonic() - began, 2),
            runtime=predictor.explain_runtime,
        )


def available_bytes() -> float:
    """Memory that this process could still take: the machine's, or the container's limit."""
    available = float(psutil.virtual_memory().available)
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        pairs = [line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines()]
    except (OSError, ValueError):  # no container, or no limit
        return available
    # The kernel reclaims file pages that were not used lately before it refuses memory.
    reclaimable = sum(int(value) for name, value in pairs if name == "inactive_file")
    return min(available, limit - used + reclaimable)
