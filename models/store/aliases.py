"""The aliases of one model, and the highest version number it has ever had.

One small file per model. It is replaced as a whole, so readers need no lock; a writer holds the
model's lock. The highest number is stored because the number of a deleted version must never be
reused: responses and caches identify a version by it.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import Conflict, NeedsOperator
from contracts.inference.manifest import CHAMPION
from models.store.manifest import write_atomically

ALIASES = "aliases.json"

MAX_ALIASES = 32
"""Of one model: responses about the model, and heartbeats of workers, name all of them."""

_MOST_FORMER = 100


class DamagedAliasesError(NeedsOperator, ValueError):
    """The file exists but cannot be read."""


class Aliases(BaseModel):
    """The content of `aliases.json`."""

    model_config = ConfigDict(frozen=True)

    aliases: dict[str, int] = {}
    highest: int = 0
    former: tuple[int, ...] = ()
    """The versions that were champion before this one, oldest first, without those rolled back."""

    @classmethod
    def read(cls, folder: Path) -> "Aliases":
        """The aliases of the model in `folder`; none if it has no file.

        Raises:
            DamagedAliasesError: The file exists but cannot be read.
        """
        try:
            return cls.model_validate_json((folder / ALIASES).read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise DamagedAliasesError(
                f"The {ALIASES} of '{folder.name}' in the store is damaged. The operator restores "
                "it from a backup, or moves it away and promotes a version."
            ) from error

    def write(self, folder: Path) -> None:
        write_atomically(folder / ALIASES, self.model_dump_json(indent=2))

    def with_alias(self, alias: str, version: int) -> "Aliases":
        """The aliases, one of which points to `version`.

        Raises:
            Conflict: It would be a new one other than the champion, and there are too many.
        """
        is_new = alias not in self.aliases and alias != CHAMPION
        if is_new and len(self.aliases) >= MAX_ALIASES:
            raise Conflict(
                f"The model has {len(self.aliases)} aliases, and may have {MAX_ALIASES}. "
                "Delete one first."
            )
        return self._changed(self.aliases | {alias: version})

    def without_alias(self, alias: str) -> "Aliases":
        remaining = {name: version for name, version in self.aliases.items() if name != alias}
        return self._changed(remaining)

    def with_version(self, version: int) -> "Aliases":
        """The same aliases, with `version` counted among the numbers in use."""
        return self.model_copy(update={"highest": max(self.highest, version)})

    def names_of(self, version: int) -> list[str]:
        """The aliases that point to `version`, sorted."""
        return sorted(name for name, number in self.aliases.items() if number == version)

    def _changed(self, aliases: dict[str, int]) -> "Aliases":
        before, after = self.aliases.get(CHAMPION), aliases.get(CHAMPION)
        former = self.former
        if before is not None and before != after:
            former = (*former, before)[-_MOST_FORMER:]
        if after in former:
            former = former[: former.index(after)]
        return self.model_copy(update={"aliases": aliases, "former": former})
