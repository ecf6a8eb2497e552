"""The names that stand for a version of one model, and the highest number it ever had.

One small file a model. It is replaced whole, so readers need no lock; who writes holds the
model's lock. The highest number is kept because a deleted version's number must never come back:
answers and caches name a version by it.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from models.store.manifest import write_atomically

ALIASES = "aliases.json"


class Aliases(BaseModel):
    """The content of `aliases.json`."""

    model_config = ConfigDict(frozen=True)

    aliases: dict[str, int] = {}
    highest: int = 0

    @classmethod
    def read(cls, folder: Path) -> "Aliases":
        """Those of the model in `folder`; none if it has no file.

        Raises:
            ValueError: The file is there and cannot be read.
        """
        try:
            return cls.model_validate_json((folder / ALIASES).read_bytes())
        except FileNotFoundError:
            return cls()
        except ValidationError as error:
            raise ValueError(f"{ALIASES} of {folder.name} cannot be read") from error

    def write(self, folder: Path) -> None:
        write_atomically(folder / ALIASES, self.model_dump_json(indent=2))

    def with_alias(self, alias: str, version: int) -> "Aliases":
        return Aliases(aliases=self.aliases | {alias: version}, highest=self.highest)

    def without_alias(self, alias: str) -> "Aliases":
        kept = {name: version for name, version in self.aliases.items() if name != alias}
        return Aliases(aliases=kept, highest=self.highest)

    def at_least(self, version: int) -> "Aliases":
        return Aliases(aliases=self.aliases, highest=max(self.highest, version))

    def of(self, version: int) -> list[str]:
        """The aliases that stand on that version."""
        return sorted(name for name, number in self.aliases.items() if number == version)
