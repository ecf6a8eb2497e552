"""Keeps the versions in memory that the store's aliases point to.

Served are the configured models and everything that was trained here: a published network may be in
the store because of an earlier configuration, but what was trained was made to be used.

A version is loaded and warmed up while the previous one answers, and takes over its alias only when
it is ready. A version that has lost its last alias stays for as long as an API process may still
send images to it. All of this happens in one thread, so no request ever waits for it.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event
from typing import Protocol

import structlog

from contracts.errors import OpsinError, Unavailable
from contracts.garbage import collect_all
from contracts.inference.manifest import CHAMPION
from contracts.metrics.registry import Metrics
from contracts.queue.heartbeat import HeldModel
from contracts.settings import MIB
from models.catalog import CATALOG
from models.store.store import Store
from workers.inference.loaded_models import LoadedModels, Predictor, group_of

log = structlog.get_logger()

RECONCILE_SECONDS = 0.3
# An API process reads the heartbeats every half second; then it may still have images to decode.
GRACE_SECONDS = 3.0
# Loading a version takes so many times its file, unless it shares a base; besides, so much has to
# stay free for requests.
COPIES, SPARE_BYTES = 3, 256 * MIB
# A head takes about a hundredth of the memory of a base, and time to load.
HEADS_AS_ONE = 16
# A version that failed to load is tried again, since a disk or memory may have been full: after the
# first pause, then after twice as long each time, but not longer than the last one.
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 30.0, 900.0
# For how long the metrics of a version are kept that was dropped.
METRICS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a version could not be loaded, and when to try again.

    Attributes:
        pause: Seconds between this attempt and the next one.
        retry_at: Monotonic seconds.
    """

    reason: str
    pause: float
    retry_at: float


class LoadModel(Protocol):
    """Loads and warms up one version; `workers.inference.loaders` has the implementation."""

    def __call__(self, model: str, version: int) -> Predictor: ...


class ReportState(Protocol):
    """Publishes the state of all models; `HeartbeatPublisher` is the implementation."""

    def report(self, *models: HeldModel) -> None: ...


class WaitingImages(Protocol):
    """Counts the images that wait for a version; `WorkerQueues` is the implementation."""

    def count_waiting(self, model: str, version: int) -> int: ...


class ModelManager:
    """Loads and evicts the versions of one worker.

    Args:
        store: Where the versions come from.
        configured: The names in `OPSIN_MODELS`, in order.
        loaded: Where they are put.
        load: Loads and warms up one version.
        queues: A version is not evicted while images wait for it.
        heartbeat: Told the state of all models after each change.
        max_trained: How many trained models may be in memory; those promoted longest ago are not.
            One that shares its base with another counts as a sixteenth.
        base_of: Says which base a version shares; None if that is unknown, or if what it does not
            share takes much memory.
        available: Bytes of memory that this process could still take. A trained version for which
            there is too little is not loaded, rather than that the process is killed for it.
        clock: Monotonic seconds.
        metrics: Count what is loaded and dropped.
    """

    def __init__(
        self,
        store: Store,
        configured: tuple[str, ...],
        loaded: LoadedModels,
        *,
        load: LoadModel,
        queues: WaitingImages,
        heartbeat: ReportState,
        max_trained: int = 32,
        base_of: Callable[[str, int], str | None] = lambda _model, _version: None,
        available: Callable[[], float] = lambda: math.inf,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._dropped: dict[tuple[str, int | None], float] = {}
        self._store = store
        self._configured = configured
        self._loaded = loaded
        self._load_model = load
        self._queues = queues
        self._heartbeat = heartbeat
        self._max_trained = max_trained
        self._base_of = base_of
        self._bases: dict[tuple[str, int], str] = {}
        self._found: dict[tuple[str, int], str | None] = {}
        self._available = available
        self._clock = clock
        self._missing = {name: HeldModel(name=name, state="loading") for name in configured}
        self._partial: dict[str, str] = {}
        self._failed: dict[tuple[str, int], _Failure] = {}
        self._unneeded_since: dict[tuple[str, int], float] = {}
        self._loading: tuple[str, int] | None = None
        self._trained: tuple[str, ...] = ()
        self._over_limit: frozenset[str] = frozenset()

    @property
    def is_loading(self) -> bool:
        """Whether a version is being loaded."""
        return self._loading is not None

    def set_missing(self, model: str, state: HeldModel, *, partial: str | None = None) -> None:
        """Set the state of a model that has no version in the store.

        Args:
            model: Its name.
            state: What to report while it has none.
            partial: Why a version of it cannot classify, if that is so once it has one.
        """
        self._missing[model] = state
        if partial is not None:
            self._partial[model] = partial
        self.report()

    def run(self, stopping: Event) -> None:
        """Reconcile again and again until told to stop."""
        while not stopping.wait(RECONCILE_SECONDS):
            self.reconcile(stopping)

    def reconcile(self, stopping: Event | None = None) -> None:
        """Bring the versions in memory in line with the aliases, once."""
        before, self._trained = self._trained, self._trained_models()
        self._dropped |= {(model, None): self._clock() for model in {*before} - {*self._trained}}
        newest_first = sorted(self._trained, key=lambda name: (-self._store.changed_at(name), name))
        self._over_limit = self._beyond_limit(newest_first)
        for model in (*self._configured, *self._trained):
            if stopping is not None and stopping.is_set():
                return
            try:
                aliases = self._store.aliases(model)
            except (OSError, ValueError, OpsinError):
                log.exception("aliases_unreadable", model=model)
                continue
            self._reconcile_model(model, {} if model in self._over_limit else aliases)
        self.report()  # once: it names each version, and there may be hundreds
        self._drop_metrics()

    def _beyond_limit(self, newest_first: list[str]) -> frozenset[str]:
        """The trained models for which there is no room, those promoted longest ago."""
        if len(newest_first) <= self._max_trained:
            return frozenset()
        room, counted, beyond = self._max_trained * HEADS_AS_ONE, set[str](), set[str]()
        for model in newest_first:
            base = self._base(model)
            cost = 1 if base in counted else HEADS_AS_ONE
            if cost > room:
                beyond.add(model)
                continue
            room -= cost
            if base is not None:
                counted.add(base)
        return frozenset(beyond)

    def _base(self, model: str) -> str | None:
        """What a model's champion shares with those of the same base; None if it may share none.

        What was found when a version was loaded counts from then on, also once it is dropped, or
        it would be loaded and dropped again and again.
        """
        for version in reversed(self._loaded.versions(model)):
            if (model, version) not in self._found and (found := self._loaded.get(model, version)):
                expected = self._base_of(model, version)
                shares = found.base is not None and found.base.digest == expected
                self._found[model, version] = expected if shares else None
            return self._found.get((model, version))
        try:
            version = self._store.aliases(model).get(CHAMPION, 0)
        except (OSError, ValueError, OpsinError):  # reported when the model is reconciled
            return None
        if (model, version) in self._found:
            return self._found[model, version]
        known = self._bases.get((model, version)) or self._base_of(model, version)
        if known is not None:
            self._bases[model, version] = known
        return known

    def _drop_metrics(self) -> None:
        """Forget what was counted for versions and models that every worker has dropped by now.

        Earlier, the sums over workers would fall while some of them still serve the version.
        """
        now = self._clock()
        for key in [key for key, at in self._dropped.items() if now - at > METRICS_SECONDS]:
            del self._dropped[key]
            model, version = key
            if version is None:
                if model not in {*self._configured, *self._trained}:
                    self._metrics.drop({(model, "")})
            elif self._loaded.get(model, version) is None:
                self._metrics.drop({(model, str(version))})

    def report(self) -> None:
        """Publish which versions are loaded, which is being loaded and which have failed."""
        models = (*self._configured, *self._trained)
        self._heartbeat.report(*(state for model in models for state in self._states(model)))

    def _trained_models(self) -> tuple[str, ...]:
        """What is in the store, or still loaded, and neither configured nor in the catalog."""
        try:
            names = self._store.models()
        except OSError:
            log.exception("store_unreadable")
            return self._trained
        loaded = [name for name in self._trained if self._loaded.versions(name)]
        return tuple(sorted({*names, *loaded} - {*CATALOG, *self._configured}))

    def _reconcile_model(self, model: str, aliases: dict[str, int]) -> None:
        """Load what is missing, then activate it, then evict what is no longer needed."""
        needed = set(aliases.values())
        self._failed = {
            key: failure
            for key, failure in self._failed.items()
            if key[0] != model or key[1] in needed
        }
        champion = aliases.get(CHAMPION)
        for version in sorted(needed, key=lambda number: (number != champion, number)):
            failure = self._failed.get((model, version))
            is_due = failure is None or self._clock() >= failure.retry_at
            if self._loaded.get(model, version) is None and is_due:
                self._load(model, version)
                self._activate(model, aliases)
        self._activate(model, aliases)
        self._evict(model, needed | set(self._loaded.aliases(model).values()))

    def _load(self, model: str, version: int) -> None:
        self._loading = (model, version)
        self.report()
        began = time.monotonic()
        try:
            if model in self._trained:
                self._require_memory(model, version)
            self._loaded.add(model, self._load_model(model, version))
        except OpsinError as error:
            self._fail(model, version, error.detail)
        except Exception:
            log.exception("version_failed", model=model, version=version)
            self._fail(
                model, version, f"Version {version} failed to load; the worker's log says why."
            )
        else:
            self._failed.pop((model, version), None)
            self._metrics.inc("version_loads_total", model, "success")
            self._metrics.observe("version_load_seconds", time.monotonic() - began, model)
            seconds = round(time.monotonic() - began, 2)
            log.info("version_loaded", model=model, version=version, seconds=seconds)
        finally:
            self._loading = None

    def _require_memory(self, model: str, version: int) -> None:
        needed, file = SPARE_BYTES, self._store.path(model, version) / "model.keras"
        if self._base_of(model, version) is None and file.is_file():
            needed += COPIES * file.stat().st_size
        if (available := self._available()) < needed:
            raise Unavailable(
                f"Memory: the worker could take {available / MIB:.0f} MB more, and version "
                f"{version} with what has to stay free needs {needed / MIB:.0f}. Delete aliases "
                "that are not needed, lower OPSIN_TRAINED_MODELS, or give the worker more memory."
            )

    def _fail(self, model: str, version: int, reason: str) -> None:
        before = self._failed.get((model, version))
        pause = FIRST_RETRY_SECONDS if before is None else min(2 * before.pause, LAST_RETRY_SECONDS)
        self._failed[model, version] = _Failure(reason, pause, self._clock() + pause)
        self._metrics.inc("version_loads_total", model, "failure")
        log.error("version_unavailable", model=model, version=version, reason=reason)

    def _activate(self, model: str, aliases: dict[str, int]) -> None:
        """Let each alias answer with its own version, or the previous one until that is loaded."""
        before = self._loaded.aliases(model)
        active = {}
        for alias, version in aliases.items():
            for candidate in (version, before.get(alias)):
                if candidate is not None and self._loaded.get(model, candidate) is not None:
                    active[alias] = candidate
                    break
        if active != before:
            self._loaded.activate(model, active)
            self.report()

    def _evict(self, model: str, needed: set[int]) -> None:
        now = self._clock()
        evicted = False
        for version in self._loaded.versions(model):
            key = (model, version)
            if version in needed:
                self._unneeded_since.pop(key, None)
                continue
            since = self._unneeded_since.setdefault(key, now)
            if now - since >= GRACE_SECONDS and self._queues.count_waiting(model, version) == 0:
                del self._unneeded_since[key]
                self._loaded.remove(model, version)
                self._metrics.inc("version_evictions_total", model)
                self._dropped[key] = now
                log.info("version_dropped", model=model, version=version)
                evicted = True
        if evicted:
            self.report()
            collect_all()  # a graph and its functions refer to one another

    def _states(self, model: str) -> list[HeldModel]:
        states = [*self._loaded_states(model), *self._other_states(model)]
        if not states and model in self._over_limit:
            reason = (
                f"Memory: a worker holds {self._max_trained} trained models "
                "(OPSIN_TRAINED_MODELS), and this one was promoted before them. "
                "Promote it again to bring it back."
            )
            return [HeldModel(name=model, state="unavailable", reason=reason)]
        if states or model in self._trained:
            return states
        return [self._missing[model]]

    def _other_states(self, model: str) -> Iterator[HeldModel]:
        """The version that is being loaded, and those that have failed."""
        if self._loading is not None and self._loading[0] == model:
            yield HeldModel(name=model, version=self._loading[1], state="loading")
        for key, failure in self._failed.items():
            if key[0] == model and key != self._loading:
                yield HeldModel(
                    name=model, version=key[1], state="unavailable", reason=failure.reason
                )

    def _loaded_states(self, model: str) -> Iterator[HeldModel]:
        for version in self._loaded.versions(model):
            predictor = self._loaded.get(model, version)
            if predictor is None:
                raise LookupError(f"{model} {version} was evicted by another thread")
            reason = None
            if {"classify", "faces"}.isdisjoint(predictor.operations):
                reason = self._partial.get(model, "It is a base without a classifier.")
            aliases = self._loaded.aliases(model)
            group = group_of(model, predictor)
            yield HeldModel(
                name=model,
                version=version,
                state="ready" if reason is None else "unavailable",
                reason=reason,
                operations=predictor.operations,
                aliases=tuple(alias for alias, number in aliases.items() if number == version),
                classes=predictor.manifest.classes,
                runtime=predictor.runtime,
                runtime_reason=predictor.runtime_reason,
                batch_sizes=predictor.batch_sizes,
                group=None if group is None else group.name,
            )
