"""The store in memory, for processes that look up versions for every request.

Request handlers read this snapshot and never the disk. It is refreshed from time to time. A
manifest never changes, so a refresh reads only those of new versions. A model whose files cannot be
read keeps its earlier state, and affects no other.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from contracts.errors import Unavailable, VersionNotFound
from contracts.inference.manifest import Geometry, Manifest
from models.store.labels import Label, read_labels
from models.store.store import ModelState, Store

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedVersion:
    """A version that answers requests.

    Attributes:
        labels: Names of the classes, in the order of the probabilities.
    """

    manifest: Manifest
    labels: tuple[Label, ...]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.model

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.manifest.input_size

    @property
    def short_side(self) -> int:
        """See `models.catalog.Network`."""
        return self.manifest.short_side

    @property
    def geometry(self) -> Geometry:
        """See `models.catalog.Network`."""
        return self.manifest.geometry


@dataclass(frozen=True, slots=True)
class ModelVersions:
    """The versions and aliases of one model in the store.

    Attributes:
        aliases: The version that each alias points to.
        versions: The manifest of each version, in ascending order.
        quarantined: Versions that were found to be damaged.
        problem: Why the present state could not be read; the rest is then the earlier state.
        state: Of the folder, before it was read; see `Store.state`.
    """

    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, Manifest] = field(default_factory=dict)
    quarantined: tuple[int, ...] = ()
    problem: str | None = None
    state: ModelState | None = field(default=None, compare=False)

    def is_in(self, state: ModelState | None) -> bool:
        """Whether the folder is certain to be as it was when it was read."""
        return state is not None and state == self.state

    def has_refused(self, store: Store) -> bool:
        """Whether a person on whom a version was trained has been erased since."""
        return any(map(store.refuses, self.versions.values()))


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """All models at one moment. It never changes; a refresh returns a new snapshot.

    Attributes:
        models: What is in the store, by model.
        served: The versions that workers had loaded, including those deleted from the store since.
        unlabeled: Those of them whose labels cannot be read. They answer nothing.
    """

    models: dict[str, ModelVersions] = field(default_factory=dict)
    served: dict[tuple[str, int], ServedVersion] = field(default_factory=dict)
    unlabeled: frozenset[tuple[str, int]] = frozenset()

    def names(self) -> list[str]:
        """The names of the models in the store, sorted."""
        return sorted(self.models)

    def get(self, model: str) -> ModelVersions:
        """The versions of a model; empty if there is no such model."""
        return self.models.get(model) or ModelVersions()

    def refreshed(self, store: Store, loaded: Collection[tuple[str, int]]) -> "StoreSnapshot":
        """Read the store and return a new snapshot.

        Args:
            loaded: The versions that workers have loaded, as (model, version).

        Raises:
            OSError: The store as a whole cannot be read.
        """
        models = {}
        for model in store.names():
            before = self.models.get(model)
            state = store.state(model, before.versions if before else ())
            if before is not None and before.is_in(state) and not before.has_refused(store):
                models[model] = before
            elif store.versions(model):
                models[model] = self._read_model(store, model, state)
        served, unlabeled = {}, set()
        for key in loaded:
            try:
                version = self.served.get(key) or _read_served(store, models, *key)
            except (OSError, ValueError):
                unlabeled.add(key)
                if key not in self.unlabeled:
                    _LOG.exception("the labels of %s %d cannot be read", *key)
                continue
            if version is not None and not store.refuses(version.manifest):
                served[key] = version
        return StoreSnapshot(models, served, frozenset(unlabeled))

    def _read_model(self, store: Store, model: str, state: ModelState | None) -> ModelVersions:
        """A model as it is now, in this state; the earlier aliases, if they cannot be read."""
        before = self.get(model)
        try:
            versions = self._read_versions(store, model)
            quarantined = tuple(store.quarantined(model))
            if versions.keys() != {*store.numbers(model)}:
                state = None  # a manifest may be restored, which does not change the model's folder
        except OSError:
            return _unreadable(before, model, "Its folder in the store cannot be read.")
        try:
            return ModelVersions(store.aliases(model), versions, quarantined, state=state)
        except (OSError, ValueError):
            now = replace(before, versions=versions, quarantined=quarantined, state=None)
            return _unreadable(
                now,
                model,
                "Its aliases.json is damaged. Restore it from a backup, or move it "
                "away and promote a version.",
            )

    def _read_versions(self, store: Store, model: str) -> dict[int, Manifest]:
        known = self.get(model).versions
        versions = {}
        for version in store.versions(model):
            try:
                manifest = known.get(version) or store.manifest(model, version)
            except (VersionNotFound, Unavailable):
                continue  # deleted in the meantime, damaged, refused, or read again soon
            if not store.refuses(manifest):
                versions[version] = manifest
        return versions


def _unreadable(earlier: ModelVersions, model: str, problem: str) -> ModelVersions:
    """The earlier state with the problem, which is logged when it appears."""
    if earlier.problem != problem:
        _LOG.exception("model %s: %s", model, problem)
    return replace(earlier, problem=problem, state=None)


def _read_served(
    store: Store, models: dict[str, ModelVersions], model: str, version: int
) -> ServedVersion | None:
    manifest = models.get(model, ModelVersions()).versions.get(version)
    if manifest is None:
        return None
    try:
        return ServedVersion(manifest, read_labels(store.path(model, version)))
    except (VersionNotFound, Unavailable, FileNotFoundError):
        return None
