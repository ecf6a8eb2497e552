"""The store as a process sees it that is asked a thousand times a second: a picture in memory.

Whoever answers requests looks here and never at the disk. The picture is made anew now and then;
what a version says of itself never changes, so only what is new is read.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from contracts.errors import VersionNotFound
from contracts.manifest import Manifest
from models.label_file import read_labels
from models.labels import Label
from models.store import Store


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


class Shelves:
    """The picture of all models.

    Args:
        store: What it is a picture of.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shelves: dict[str, Shelf] = {}
        self._served: dict[tuple[str, int], Served] = {}

    def names(self) -> list[str]:
        """The models in the store, by name."""
        return sorted(self._shelves)

    def get(self, model: str) -> Shelf:
        """A model's shelf; an empty one if there is no such model."""
        return self._shelves.get(model) or Shelf()

    def served(self, model: str, version: int) -> Served | None:
        """A version that was held when the picture was made, be it deleted since or not."""
        return self._served.get((model, version))

    def look(self, held: Collection[tuple[str, int]]) -> None:
        """Make the picture anew. Reads the disk.

        Args:
            held: The versions that answer requests now. They are kept even if they are deleted
                from the store, for as long as somebody holds them.

        Raises:
            OSError: The store cannot be read.
            ValueError: A model's aliases cannot be read.
        """
        self._shelves = {model: self._shelf(model) for model in self._store.models()}
        served = {key: self._served.get(key) or self._read(*key) for key in held}
        self._served = {key: one for key, one in served.items() if one is not None}

    def _shelf(self, model: str) -> Shelf:
        known = self.get(model).versions
        versions = {}
        for version in self._store.versions(model):
            try:
                versions[version] = known.get(version) or self._store.manifest(model, version)
            except VersionNotFound:
                continue  # deleted this very moment, or damaged
        return Shelf(self._store.aliases(model), versions, tuple(self._store.quarantined(model)))

    def _read(self, model: str, version: int) -> Served | None:
        manifest = self.get(model).versions.get(version)
        if manifest is None:
            return None
        try:
            return Served(manifest, read_labels(self._store.path(model, version)))
        except (VersionNotFound, FileNotFoundError):
            return None
