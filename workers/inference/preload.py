"""Loads what the first heatmap needs in a moment when nobody asks for anything.

A heatmap comes from a graph of its own, which is read, compiled, judged and run once: a second or
two, and where OpenVINO cannot read it, many, as then TensorFlow is loaded. Here that is done before
anybody asks, but after everything else: when all is loaded that serves, the worker has been idle
for a while, and there is memory to spare.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Literal, Protocol

import psutil
import structlog

from contracts.errors import VersionNotFound
from models.store.store import Store
from workers.inference.loaded_models import Held, Predictor

log = structlog.get_logger()

LOOK_SECONDS = 0.5
IDLE_SECONDS = 2.0
# What is left to everybody else, or to TensorFlow where it must explain (700 MB).
_SPARE_BYTES = 1_000_000_000
# Where memory is short, the next look: it costs little, and somebody may have ended.
RETRY_SECONDS = 60.0
# Read into memory, they are there once as a file's pages and once as they are computed with.
_COPIES = 2
_CONTAINER = Path("/sys/fs/cgroup")

Preload = Literal["auto", "on", "off"]


class Idle(Protocol):
    """What knows how long the worker has had nothing to do."""

    @property
    def idle_seconds(self) -> float: ...


class Preloading:
    """Of one worker; runs in a thread of its own.

    Args:
        held: The versions in memory.
        store: Where their files are.
        wanted: ``auto``: only where there is memory to spare.
        idle: Says for how long nobody has asked for anything.
        is_loading: Whether a version is on its way, which goes first.
        available: Bytes of memory that could still be had.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        held: Held,
        store: Store,
        wanted: Preload,
        *,
        idle: Idle,
        is_loading: Callable[[], bool],
        available: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._held = held
        self._store = store
        self._wanted = wanted
        self._idle = idle
        self._is_loading = is_loading
        self._available = available
        self._clock = clock
        # Never again, and not before; both only of versions in memory.
        self._left: set[tuple[str, int]] = set()
        self._later: dict[tuple[str, int], float] = {}

    def watch(self, stopping: Event) -> None:
        """Look again and again until told to stop."""
        if self._wanted == "off":
            return
        while not stopping.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Load for one version, if this is the moment and there is one."""
        if self._is_loading() or self._idle.idle_seconds < IDLE_SECONDS:
            return
        held = self._held.all()
        self._left.intersection_update(held)
        self._later = {one: at for one, at in self._later.items() if one in held}
        for model, version in held:
            predictor = self._held.get(model, version)
            if predictor is not None and self._wants(model, version, predictor):
                self._load(model, version, predictor)
                return

    def _wants(self, model: str, version: int, predictor: Predictor) -> bool:
        if "heatmap" not in predictor.operations or predictor.can_explain():
            return False
        one, now = (model, version), self._clock()
        if one in self._left or now < self._later.get(one, now):
            return False
        if self._wanted == "on" or self._available() >= self._needed(model, version):
            return True
        if one not in self._later:  # said once
            log.info("explanations_not_preloaded", model=model, version=version, reason="memory")
        self._later[one] = now + RETRY_SECONDS
        return False

    def _needed(self, model: str, version: int) -> float:
        try:
            variables = self._store.path(model, version) / "saved_model" / "variables"
            weights = sum(file.stat().st_size for file in variables.iterdir())
        except (OSError, VersionNotFound):  # deleted this very moment
            return math.inf
        return _COPIES * weights + _SPARE_BYTES

    def _load(self, model: str, version: int, predictor: Predictor) -> None:
        began = time.monotonic()
        try:
            predictor.load_explain()
        except Exception:  # whoever asks for a heatmap tries again, and is told
            self._left.add((model, version))
            log.exception("explanations_not_preloaded", model=model, version=version)
            return
        seconds = round(time.monotonic() - began, 2)
        told = {"model": model, "version": version, "seconds": seconds}
        log.info("explanations_preloaded", **told, runtime=predictor.explain_runtime)


def available_bytes() -> float:
    """Memory that this process could still take: the machine's, or what its container may."""
    available = float(psutil.virtual_memory().available)
    try:
        limit = int((_CONTAINER / "memory.max").read_text())
        used = int((_CONTAINER / "memory.current").read_text())
        pairs = [line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines()]
    except (OSError, ValueError):  # no container, or no limit
        return available
    # Pages of files that nobody has looked at lately are given up before anything is refused.
    reclaimable = sum(int(value) for name, value in pairs if name == "inactive_file")
    return min(available, limit - used + reclaimable)
