"""The store as a process sees it that is asked a thousand times a second: a picture in memory.

Whoever answers requests looks here and never at the disk. The picture is made anew now and then;
what a version says of itself never changes, so only what is new is read.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from contracts.errors import VersionNotFound
from contracts.inference.manifest import Manifest
from models.store.labels import Label, read_labels
from models.store.store import Store


@dataclass(frozen=True, slots=True)
class Served:
    """A version that answers requests.

    Attributes:
        manifest: What it says of itself.
        labels: What its classes are called, in the order of the probabilities.
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
class Shelf:
    """One model in the store.

    Attributes:
        aliases: The version that each stands on.
        versions: The manifest of each version, in ascending order.
        quarantined: Versions that were found damaged.
    """

    aliases: dict[str, int] = field(default_factory=dict)
    versions: dict[int, Manifest] = field(default_factory=dict)
    quarantined: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Shelves:
    """The picture of all models at one moment; it never changes, another takes its place.

    Attributes:
        shelves: What is in the store, by model.
        served: The versions that workers held then, be they deleted from the store since or not.
    """

    shelves: dict[str, Shelf] = field(default_factory=dict)
    served: dict[tuple[str, int], Served] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The models in the store, by name."""
        return sorted(self.shelves)

    def get(self, model: str) -> Shelf:
        """A model's shelf; an empty one if there is no such model."""
        return self.shelves.get(model) or Shelf()

    def renewed(self, store: Store, held: Collection[tuple[str, int]]) -> "Shelves":
        """The picture as it is now. Reads the disk.

        Args:
            store: What it is a picture of.
            held: The versions that answer requests now.

        Raises:
            OSError: The store cannot be read.
            ValueError: A model's aliases cannot be read.
        """
        shelves = {model: self._shelf(store, model) for model in store.models()}
        served = {key: self.served.get(key) or _read(store, shelves, *key) for key in held}
        return Shelves(shelves, {key: one for key, one in served.items() if one is not None})

    def _shelf(self, store: Store, model: str) -> Shelf:
        known = self.get(model).versions
        versions = {}
        for version in store.versions(model):
            try:
                versions[version] = known.get(version) or store.manifest(model, version)
            except VersionNotFound:
                continue  # deleted this very moment, or damaged
        return Shelf(store.aliases(model), versions, tuple(store.quarantined(model)))


def _read(store: Store, shelves: dict[str, Shelf], model: str, version: int) -> Served | None:
    manifest = shelves.get(model, Shelf()).versions.get(version)
    if manifest is None:
        return None
    try:
        return Served(manifest, read_labels(store.path(model, version)))
    except (VersionNotFound, FileNotFoundError):
        return None
