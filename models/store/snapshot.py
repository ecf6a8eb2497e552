"""The store in memory, for processes that look up versions for every request.

Request handlers read this snapshot and never the disk. It is refreshed from time to time. A
manifest never changes, so a refresh reads only those of new versions.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from contracts.errors import VersionNotFound
from contracts.inference.manifest import Manifest
from models.store.labels import Label, read_labels
from models.store.store import Store


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


@dataclass(frozen=True, slots=True)
class ModelVersions:
    """The versions and aliases of one model in the store.

    Attributes:
        aliases: The version that each alias points to.
        versions: The manifest of each version, in ascending order.
        quarantined: Versions that were found to be damaged.
    """

    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, Manifest] = field(default_factory=dict)
    quarantined: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreSnapshot:
    """All models at one moment. It never changes; a refresh returns a new snapshot.

    Attributes:
        models: What is in the store, by model.
        served: The versions that workers had loaded, including those deleted from the store since.
    """

    models: dict[str, ModelVersions] = field(default_factory=dict)
    served: dict[tuple[str, int], ServedVersion] = field(default_factory=dict)

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
            OSError: The store cannot be read.
            ValueError: The aliases of a model cannot be read.
        """
        models = {model: self._read_model(store, model) for model in store.models()}
        served = {key: self.served.get(key) or _read_served(store, models, *key) for key in loaded}
        return StoreSnapshot(
            models, {key: version for key, version in served.items() if version is not None}
        )

    def _read_model(self, store: Store, model: str) -> ModelVersions:
        known = self.get(model).versions
        versions = {}
        for version in store.versions(model):
            try:
                versions[version] = known.get(version) or store.manifest(model, version)
            except VersionNotFound:
                continue  # deleted in the meantime, or damaged
        return ModelVersions(store.aliases(model), versions, tuple(store.quarantined(model)))


def _read_served(
    store: Store, models: dict[str, ModelVersions], model: str, version: int
) -> ServedVersion | None:
    manifest = models.get(model, ModelVersions()).versions.get(version)
    if manifest is None:
        return None
    try:
        return ServedVersion(manifest, read_labels(store.path(model, version)))
    except (VersionNotFound, FileNotFoundError):
        return None
