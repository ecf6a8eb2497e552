"""The versions of all models on the disk: publish, look up, promote, verify, delete.

    {root}/{model}/{version}/     saved_model/  model.keras  labels.json  manifest.json  derived/
    {root}/{model}/aliases.json   champion -> 3, and the highest number ever given
    {root}/{model}/quarantine/    versions whose files no longer match their manifest
    {root}/.staging/              versions in the making

A version appears by one rename of a finished, flushed folder, so there is no moment at which half
of it can be seen. Nothing in here knows TensorFlow: the API process reads the store too.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from contracts.errors import ModelNotFound, ValidationFailed, VersionInUse, VersionNotFound
from contracts.inference.manifest import ALIAS_NAME, CHAMPION, MODEL_NAME, Draft, Manifest
from models.store.aliases import ALIASES, Aliases
from models.store.hardlinks import link_tree
from models.store.locks import locked
from models.store.manifest import (
    DERIVED,
    MANIFEST,
    DamagedManifestError,
    hash_files,
    problems,
    read_manifest,
    write_manifest,
)
from models.store.staging import Staging, flush, flush_entries

_LOG = logging.getLogger(__name__)
_NAME = re.compile(MODEL_NAME)
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_QUARANTINE = "quarantine"


class Store:
    """All model versions below one folder; safe among threads and processes.

    Args:
        root: Its folder; made on first use.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = Staging(root / ".staging")

    def models(self) -> list[str]:
        """The models that have at least one version, by name."""
        if not self._root.is_dir():
            return []
        names = (path.name for path in self._root.iterdir())
        return sorted(name for name in names if _NAME.fullmatch(name) and self.versions(name))

    def versions(self, model: str) -> list[int]:
        """The versions of a model, in ascending order; empty if there is no such model."""
        folder = self._folder(model)
        return sorted(
            int(path.name)
            for path in (folder.iterdir() if folder.is_dir() else ())
            if _NUMBER.fullmatch(path.name) and (path / MANIFEST).is_file()
        )

    def quarantined(self, model: str) -> list[int]:
        """The versions of a model that were found damaged, in ascending order."""
        shelf = self._folder(model) / _QUARANTINE
        return sorted(self._numbers(shelf)) if shelf.is_dir() else []

    def path(self, model: str, version: int) -> Path:
        """The folder of a version.

        Raises:
            VersionNotFound: The model has no such version.
        """
        folder = self._folder(model) / str(version)
        if not (folder / MANIFEST).is_file():
            raise self._missing(model, str(version))
        return folder

    def manifest(self, model: str, version: int) -> Manifest:
        """What a version says of itself.

        Raises:
            VersionNotFound: The model has no such version, or its manifest is damaged.
        """
        folder = self.path(model, version)
        try:
            return read_manifest(folder)
        except DamagedManifestError:
            _LOG.exception("the manifest of %s %d is damaged", model, version)
            raise VersionNotFound(
                f"Version {version} of '{model}' is damaged; "
                "use another version or publish it anew."
            ) from None

    def aliases(self, model: str) -> dict[str, int]:
        """The aliases of a model and the versions they stand on."""
        return dict(Aliases.read(self._folder(model)).aliases)

    def changed_at(self, model: str) -> float:
        """Unix time when a version was last published, promoted or deleted; 0 if never."""
        try:
            return (self._folder(model) / ALIASES).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def resolve(self, model: str, version: int | str | None = None) -> int:
        """The number of a version that is named by number, by alias or, as champion, not at all.

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version or alias.
        """
        if not self._folder(model).is_dir():
            raise ModelNotFound(f"There is no model '{model}' in the store.")
        name = CHAMPION if version is None else str(version)
        if not _NUMBER.fullmatch(name):
            number = Aliases.read(self._folder(model)).aliases.get(name)
            if number is None:
                raise self._missing(model, name)
            name = str(number)
        self.path(model, int(name))
        return int(name)

    def staging(self) -> AbstractContextManager[Path]:
        """An empty folder to put a version together in; see `publish`."""
        return self._staging.folder()

    def publish(self, model: str, folder: Path, draft: Draft) -> int:
        """Make the content of a staging folder the next version of a model.

        Args:
            model: Its name; a new one makes a new model.
            folder: From `staging`; empty afterwards.
            draft: What the manifest shall say.

        Returns:
            The version's number, one higher than any the model ever had.
        """
        home = self._folder(model)
        files = hash_files(folder)
        flush(folder)  # the long part, before the lock
        with self._changing(model) as aliases:
            version = max(self._numbers(home), default=0)
            version = max(version, aliases.highest) + 1
            known = draft.model_dump() | {"created_at": datetime.now(UTC), "files": files}
            write_manifest(folder, Manifest(model=model, version=version, **known))
            folder.rename(home / str(version))
            flush_entries(home)
            aliases.at_least(version).write(home)
        return version

    def promote(self, model: str, version: int | str, alias: str = CHAMPION) -> int | None:
        """Let an alias stand on a version; rolling back is promoting an older one.

        Returns:
            The version it stood on before; None if it is new.

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version.
            ValidationFailed: The alias is not a usable name.
        """
        _checked(ALIAS_NAME, alias, "An alias")
        self.resolve(model, version)
        with self._changing(model) as aliases:
            number = self.resolve(model, version)
            aliases.with_alias(alias, number).write(self._folder(model))
            return aliases.aliases.get(alias)

    def drop_alias(self, model: str, alias: str) -> None:
        """Take an alias away; nothing happens if there is none."""
        with self._changing(model) as aliases:
            aliases.without_alias(alias).write(self._folder(model))

    def delete(self, model: str, version: int) -> None:
        """Remove a version for good. Its number is never given again.

        Raises:
            VersionNotFound: The model has no such version.
            VersionInUse: An alias stands on it.
        """
        self.path(model, version)
        with self._changing(model) as aliases:
            folder = self.path(model, version)
            if names := aliases.of(version):
                raise VersionInUse(
                    f"Version {version} of '{model}' is {' and '.join(names)}; "
                    "promote another version first."
                )
            aliases.at_least(version).write(self._folder(model))
            with self.staging() as rubbish:  # one rename: no reader meets half a deletion
                folder.rename(rubbish / "deleted")

    def verify(self, model: str, version: int) -> list[str]:
        """Compare every file of a version with its manifest; a damaged one leaves the shelf.

        Returns:
            What is wrong, one line each. Not empty means: it now lies in quarantine, and
            whoever asks for it is told so. An alias that stood on it is not moved.

        Raises:
            VersionNotFound: The model has no such version.
        """
        folder = self.path(model, version)
        found = problems(folder)
        if not found:
            return []
        with self._changing(model) as aliases:
            aliases.at_least(version).write(self._folder(model))
            shelf = self._folder(model) / _QUARANTINE
            shelf.mkdir(exist_ok=True)
            if folder.is_dir():  # another verifier may have been first
                folder.rename(shelf / str(version))
        _LOG.error("%s %d went to quarantine: %s", model, version, "; ".join(found))
        return found

    def freeze(self, model: str, into: Path) -> None:
        """Lay a model as it is now into a folder that later changes do not reach.

        Args:
            model: Its name.
            into: On the file system of the store, best from `staging`; see
            `models.store.hardlinks`.
        """
        with self._changing(model):
            link_tree(self._folder(model), into, lambda inside: inside.name == DERIVED)

    def alone(self, purpose: str, *, timeout: float = 600.0) -> AbstractContextManager[None]:
        """Keep others with the same purpose out while the block runs; they wait `timeout` seconds.

        Raises:
            Unavailable: Another was at it all that time.
        """
        return locked(self._root / ".locks" / f"{purpose}.lock", timeout=timeout)

    @contextmanager
    def _changing(self, model: str) -> Iterator[Aliases]:
        """Alone with a model: its aliases as they are, for the block to replace."""
        home = self._folder(model)
        home.mkdir(parents=True, exist_ok=True)
        with locked(self._root / ".locks" / f"model-{model}.lock"):
            yield Aliases.read(home)

    def _folder(self, model: str) -> Path:
        return self._root / _checked(MODEL_NAME, model, "A model's name")

    def _numbers(self, home: Path) -> list[int]:
        return [int(path.name) for path in home.iterdir() if _NUMBER.fullmatch(path.name)]

    def _missing(self, model: str, name: str) -> VersionNotFound:
        if (self._folder(model) / _QUARANTINE / name).is_dir():
            return VersionNotFound(
                f"Version {name} of '{model}' was found damaged and is in quarantine; "
                "use another version or publish it anew."
            )
        known = ", ".join(str(number) for number in self.versions(model)) or "none"
        aliases = ", ".join(self.aliases(model)) or "none"
        return VersionNotFound(
            f"'{model}' has no version '{name[:64]}'. Versions: {known}; aliases: {aliases}."
        )


def _checked(pattern: str, name: str, what: str) -> str:
    """The name, if it is one; so no name ever leads out of the store."""
    if re.fullmatch(pattern, name):
        return name
    first = "a letter" if pattern == ALIAS_NAME else "a letter or a digit"
    raise ValidationFailed(f"{what} is 1 to 64 of a-z, 0-9, '-' and '_', and begins with {first}.")
