"""Keeps in memory what the store's aliases stand on: loads what is new, drops what is past.

Served are the configured models and, besides, everything that was trained here: a published network
may lie in the store from an earlier configuration, but what was trained was made to be used.

A version is loaded and warmed beside the one that serves, and only when it can answer does it
take the alias over. What lost its last alias stays for as long as an API process may still send
to it. One thread does all of this, so no request ever waits for it.
"""

import gc
import time
from collections.abc import Callable
from threading import Event
from typing import Protocol

import structlog

from contracts.errors import OpsinError
from contracts.inference.manifest import CHAMPION
from contracts.queue.heartbeat import HeldModel
from models.catalog import CATALOG
from models.store.store import Store
from workers.inference.loaded_models import Held, Predictor

log = structlog.get_logger()

LOOK_SECONDS = 0.3
# An API process looks at the workers every half second; then images may still have to be decoded.
GRACE_SECONDS = 3.0


class Load(Protocol):
    """Loads and warms one version; `workers.inference.loaders` has the real one."""

    def __call__(self, model: str, version: int) -> Predictor: ...


class Tell(Protocol):
    """Tells everybody what this worker holds, at once."""

    def __call__(self, *models: HeldModel) -> None: ...


class Versions:
    """The versions of one worker's models.

    Args:
        store: Where they come from.
        models: The configured names, in order.
        held: Where they are put.
        load: Loads and warms one.
        waiting: How many images wait for a version; it is not dropped while any do.
        tell: Tells what is held, after each change.
        most_trained: Trained models that may lie in memory; those promoted longest ago do not.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        models: tuple[str, ...],
        held: Held,
        *,
        load: Load,
        waiting: Callable[[str, int], int],
        tell: Tell,
        most_trained: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._models = models
        self._held = held
        self._load = load
        self._waiting = waiting
        self._tell = tell
        self._clock = clock
        self._absent = {model: HeldModel(name=model, state="loading") for model in models}
        self._partial: dict[str, str] = {}
        self._failed: dict[tuple[str, int], str] = {}
        self._retired: dict[tuple[str, int], float] = {}
        self._loading: tuple[str, int] | None = None
        self._trained: tuple[str, ...] = ()
        self._most_trained = most_trained
        self._beyond: frozenset[str] = frozenset()

    def absent(self, model: str, state: HeldModel, *, partial: str | None = None) -> None:
        """Say how a model fares of which there is no version.

        Args:
            model: Its name.
            state: What to tell while there is none.
            partial: Why a version of it cannot classify, should it be one that cannot.
        """
        self._absent[model] = state
        if partial is not None:
            self._partial[model] = partial
        self.tell()

    @property
    def is_loading(self) -> bool:
        """Whether a version is on its way."""
        return self._loading is not None

    def watch(self, stopping: Event) -> None:
        """Look at the store again and again until told to stop."""
        while not stopping.wait(LOOK_SECONDS):
            self.look(stopping)

    def look(self, stopping: Event | None = None) -> None:
        """Bring memory in line with the aliases, once."""
        self._trained = self._trained_models()
        self._beyond = self._without_room()
        for model in (*self._models, *self._trained):
            if stopping is not None and stopping.is_set():
                return
            try:
                aliases = self._store.aliases(model)
            except (OSError, ValueError, OpsinError):
                log.exception("aliases_unreadable", model=model)
                continue
            self._settle(model, {} if model in self._beyond else aliases)

    def _trained_models(self) -> tuple[str, ...]:
        """What is in the store, or still held, that is neither configured nor published."""
        try:
            names = self._store.models()
        except OSError:
            log.exception("store_unreadable")
            return self._trained
        known = {*CATALOG, *self._models}
        held = [name for name in self._trained if self._held.versions(name)]
        return tuple(sorted({*names, *held} - known))

    def _without_room(self) -> frozenset[str]:
        """The trained models that are one too many, by when they were last promoted."""
        newest = sorted(self._trained, key=lambda one: (-self._store.changed_at(one), one))
        return frozenset(newest[self._most_trained :])

    def _settle(self, model: str, aliases: dict[str, int]) -> None:
        """One model: load first, then hand the aliases over, then drop."""
        wanted = set(aliases.values())
        self._failed = {
            key: why for key, why in self._failed.items() if key[0] != model or key[1] in wanted
        }
        champion = aliases.get(CHAMPION)
        for version in sorted(wanted, key=lambda number: (number != champion, number)):
            if self._held.get(model, version) is None and (model, version) not in self._failed:
                self._bring(model, version)
                self._hand_over(model, aliases)
        self._hand_over(model, aliases)
        self._retire(model, wanted | set(self._held.aliases(model).values()))

    def _bring(self, model: str, version: int) -> None:
        self._loading = (model, version)
        self.tell()
        began = time.monotonic()
        try:
            self._held.put(model, self._load(model, version))
        except OpsinError as error:
            self._fail(model, version, error.detail)
        except Exception:
            log.exception("version_failed", model=model, version=version)
            self._fail(
                model, version, f"Version {version} failed to load; the worker's log says why."
            )
        else:
            seconds = round(time.monotonic() - began, 2)
            log.info("version_loaded", model=model, version=version, seconds=seconds)
        finally:
            self._loading = None

    def _fail(self, model: str, version: int, reason: str) -> None:
        self._failed[model, version] = reason
        log.error("version_unavailable", model=model, version=version, reason=reason)

    def _hand_over(self, model: str, aliases: dict[str, int]) -> None:
        """Let each alias answer with its own version, or with what answered before it."""
        before = self._held.aliases(model)
        standing = {}
        for alias, version in aliases.items():
            for candidate in (version, before.get(alias)):
                if candidate is not None and self._held.get(model, candidate) is not None:
                    standing[alias] = candidate
                    break
        self._held.stand(model, standing)
        self.tell()

    def _retire(self, model: str, needed: set[int]) -> None:
        now = self._clock()
        dropped = False
        for version in self._held.versions(model):
            key = (model, version)
            if version in needed:
                self._retired.pop(key, None)
                continue
            since = self._retired.setdefault(key, now)
            if now - since >= GRACE_SECONDS and self._waiting(model, version) == 0:
                del self._retired[key]
                self._held.drop(model, version)
                log.info("version_dropped", model=model, version=version)
                dropped = True
        if dropped:
            self.tell()
            gc.collect()  # a graph and its functions refer to one another

    def tell(self) -> None:
        """Tell what is held, what is on its way and what failed."""
        self._tell(*(one for model in (*self._models, *self._trained) for one in self._told(model)))

    def _told(self, model: str) -> list[HeldModel]:
        told = [self._held_model(model, version) for version in self._held.versions(model)]
        if self._loading is not None and self._loading[0] == model:
            told.append(HeldModel(name=model, version=self._loading[1], state="loading"))
        for (name, version), reason in self._failed.items():
            if name == model:
                told.append(
                    HeldModel(name=model, version=version, state="unavailable", reason=reason)
                )
        if not told and model in self._beyond:
            reason = (
                f"Memory: a worker holds {self._most_trained} trained models "
                "(OPSIN_TRAINED_MODELS), and this one was promoted before them. "
                "Promote it again to bring it back."
            )
            return [HeldModel(name=model, state="unavailable", reason=reason)]
        if told or model in self._trained:
            return told
        return [self._absent[model]]

    def _held_model(self, model: str, version: int) -> HeldModel:
        one = self._held.get(model, version)
        if one is None:
            raise LookupError(f"{model} {version} was dropped by another thread")
        whole = not {"classify", "faces"}.isdisjoint(one.operations)
        return HeldModel(
            name=model,
            version=version,
            state="ready" if whole else "unavailable",
            reason=None
            if whole
            else self._partial.get(model, "It is a base without a classifier."),
            operations=one.operations,
            aliases=tuple(
                alias for alias, number in self._held.aliases(model).items() if number == version
            ),
            classes=one.manifest.classes,
            runtime=one.runtime,
            runtime_reason=one.runtime_reason,
            batch_sizes=one.batch_sizes,
        )
