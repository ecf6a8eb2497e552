"""The versions of all models on the disk: publish, look up, promote, verify, delete.

    {root}/{model}/{version}/     saved_model/  model.keras  labels.json  manifest.json  derived/
    {root}/{model}/aliases.json   champion -> 3, and the highest number ever used
    {root}/{model}/quarantine/    versions whose files no longer match their manifest
    {root}/.staging/              versions that are being assembled

A version appears by one rename of a finished, flushed folder, so readers never see half of it.
This module does not import TensorFlow, because the API process reads the store too.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from contracts.errors import (
    Conflict,
    ModelNotFound,
    Unavailable,
    ValidationFailed,
    VersionInUse,
    VersionNotFound,
)
from contracts.faces.erased_ids import list_of
from contracts.files import flush_entries
from contracts.inference.manifest import ALIAS_NAME, CHAMPION, MODEL_NAME, Draft, Manifest
from contracts.suggestions import similar
from contracts.wording import few
from models.locks import LOCK_SECONDS, locked
from models.store.aliases import ALIASES, Aliases, DamagedAliasesError
from models.store.hardlinks import link_tree
from models.store.labels import LABELS
from models.store.manifest import (
    DERIVED,
    MANIFEST,
    DamagedManifestError,
    find_problems,
    hash_files,
    read_manifest,
    unreadable,
    write_manifest,
)
from models.store.staging import Staging, flush

_LOG = logging.getLogger(__name__)
_NAME = re.compile(MODEL_NAME)
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_QUARANTINE = "quarantine"
_SETTLED_NS = 60 * 10**9

ModelState: TypeAlias = tuple[int, ...]
"""See `Store.state`."""

Check: TypeAlias = Callable[[int | None], None]
"""Gets the version that an alias points to (None: to none), under the model's lock; may raise."""


class AliasMovedError(Conflict):
    """An alias no longer points to the version that it was to be moved from."""


def unmoved(version: int | None) -> Check:
    """Lets an alias be moved from that version only; otherwise raises `AliasMovedError`."""

    def check(holder: int | None) -> None:
        if holder != version:
            raise AliasMovedError("The alias was moved in the meantime.")

    return check


def _anything(_holder: int | None) -> None:
    """Lets every alias be moved."""


def _names_in(folder: Path) -> list[str]:
    """The names of what is in a folder; none if there is no such folder.

    By `os.listdir`, since a process looks at all models several times a second.
    """
    try:
        return os.listdir(folder)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


class Store:
    """All model versions below the folder `root`; safe to share among threads and processes.

    A version that was trained on an erased person can only be listed and deleted, until an erasure
    has deleted it: a restore, or files that are copied into the home, may bring it back.

    Args:
        root: The list of those persons lies beside it, see `contracts.faces.erased_ids`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._erased = list_of(root.parent)
        self._staging = Staging(root / ".staging")

    def models(self) -> list[str]:
        """The models that have at least one version, sorted by name."""
        return [name for name in self.names() if self.versions(name)]

    def names(self) -> list[str]:
        """What may be models, sorted: they need not have a version."""
        return sorted(filter(_NAME.fullmatch, _names_in(self._root)))

    def state(self, model: str, versions: Iterable[int] = ()) -> ModelState | None:
        """What is another one after any change of a model; None if it is not certain.

        That costs a tenth of reading the model, which each process does several times a second for
        all of them. A change within a minute is not certain, since another one may have had the
        same time, by the clock of another host.

        Args:
            model: Its name, one of `names`.
            versions: Those that are known; their manifests have to be there still.
        """
        folder = f"{self._root}/{model}"
        try:
            home, aliases = os.stat(folder), os.stat(f"{folder}/{ALIASES}")  # noqa: PTH116
            self._erased.require_readable()
        except OSError:
            return None
        if time.time_ns() - max(home.st_ctime_ns, aliases.st_ctime_ns) < _SETTLED_NS:
            return None
        if not all(os.path.isfile(f"{folder}/{one}/{MANIFEST}") for one in versions):  # noqa: PTH113
            return None
        return home.st_ino, home.st_ctime_ns, aliases.st_ino, aliases.st_ctime_ns, aliases.st_size

    def versions(self, model: str) -> list[int]:
        """The versions of a model, in ascending order; empty if there is no such model."""
        folder = self._folder(model)
        return sorted(
            int(name)
            for name in _names_in(folder)
            if _NUMBER.fullmatch(name) and os.path.isfile(f"{folder}/{name}/{MANIFEST}")  # noqa: PTH113
        )

    def numbers(self, model: str) -> list[int]:
        """The versions of a model, also those whose manifest is lost, in any order."""
        return [int(name) for name in _names_in(self._folder(model)) if _NUMBER.fullmatch(name)]

    def quarantined(self, model: str) -> list[int]:
        """The versions of a model that were found to be damaged, in ascending order."""
        quarantine = self._folder(model) / _QUARANTINE
        return sorted(self._numbers(quarantine)) if quarantine.is_dir() else []

    def path(self, model: str, version: int) -> Path:
        """The folder of a version.

        Raises:
            VersionNotFound: The model has no such version, or it was trained on an erased person.
                Or there are erased persons, and its damaged manifest does not say on whom.
            Unavailable: Whether it was trained on one cannot be read at the moment.
        """
        folder = self._existing(model, version)
        if self._lists_erased():
            self.manifest(model, version)
        return folder

    def manifest(self, model: str, version: int, *, of_erased: bool = False) -> Manifest:
        """The manifest of a version.

        Args:
            of_erased: Also if it was trained on an erased person, to delete it.

        Raises:
            VersionNotFound: The model has no such version, its manifest is damaged, or it was
                trained on an erased person.
            Unavailable: It cannot be read at the moment, or not who was erased.
        """
        folder = self._folder(model) / str(version)
        try:
            manifest = read_manifest(folder)
        except DamagedManifestError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise self._missing(model, str(version)) from None
            if unreadable(error) is not None:
                _LOG.exception("the manifest of %s %d cannot be read", model, version)
                raise Unavailable(
                    f"Version {version} of '{model}' cannot be read at the moment. Retry soon.",
                    retry_after=5,
                ) from None
            _LOG.exception("the manifest of %s %d is damaged", model, version)
            raise VersionNotFound(
                f"Version {version} of '{model}' is damaged; "
                "use another version or publish it again."
            ) from None
        if not of_erased:
            self._require_unerased(manifest)
        return manifest

    def manifests(self, model: str, *, of_erased: bool = False) -> list[Manifest]:
        """The manifests of all versions, in ascending order; unreadable ones are left out.

        Args:
            of_erased: As for `manifest`; otherwise they are left out too.
        """
        manifests = []
        for version in self.versions(model):
            with suppress(VersionNotFound, Unavailable):  # or deleted in the meantime
                manifests.append(self.manifest(model, version, of_erased=of_erased))
        return manifests

    def refuses(self, manifest: Manifest) -> bool:
        """Whether a version was trained on an erased person, or that cannot be read."""
        try:
            self._require_unerased(manifest)
        except (VersionNotFound, Unavailable):
            return True
        return False

    def aliases(self, model: str) -> dict[str, int]:
        """The aliases of a model and the versions that they point to."""
        return dict(Aliases.read(self._folder(model)).aliases)

    def former_champions(self, model: str) -> list[int]:
        """The versions that were champion before, latest first; some may be deleted."""
        return list(reversed(Aliases.read(self._folder(model)).former))

    def changed_at(self, model: str) -> float:
        """Unix time when a version was last published, promoted or deleted; 0 if never."""
        try:
            return (self._folder(model) / ALIASES).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def resolve(self, model: str, version: int | str | None = None) -> int:
        """The number of a version.

        Args:
            version: A number or an alias; None means the champion.

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version or alias.
        """
        if not self._folder(model).is_dir():
            raise ModelNotFound(
                f"There is no model '{model}' in the store.{similar(model, self.models())}"
            )
        name = CHAMPION if version is None else str(version)
        if not _NUMBER.fullmatch(name):
            number = Aliases.read(self._folder(model)).aliases.get(name)
            if number is None:
                raise self._missing(model, name)
            name = str(number)
        self.path(model, int(name))
        return int(name)

    def staging(self) -> AbstractContextManager[Path]:
        """An empty folder in which to assemble a version; see `publish`."""
        return self._staging.folder()

    def publish(self, model: str, folder: Path, draft: Draft) -> int:
        """Make the content of a staging folder the next version of a model.

        Args:
            model: An unknown name creates a new model.
            folder: From `staging`; empty afterwards.
            draft: The content of the manifest.

        Returns:
            The version's number, one higher than any that the model has ever had.
        """
        home = self._folder(model)
        files = hash_files(folder)
        flush(folder)  # takes long, so before the lock
        with self._lock(model, LOCK_SECONDS):
            try:
                aliases = Aliases.read(home)
            except DamagedAliasesError:  # no reason to lose a training of hours
                _LOG.exception("version published beside damaged aliases")
                aliases = None
            known = [*self._numbers(home), *self.quarantined(model)]
            version = max([*known, aliases.highest if aliases else 0]) + 1
            fields = draft.model_dump() | {"created_at": datetime.now(UTC), "files": files}
            write_manifest(folder, Manifest(model=model, version=version, **fields))
            folder.rename(home / str(version))
            flush_entries(home)
            if aliases is not None:
                aliases.with_version(version).write(home)
        return version

    def promote(
        self,
        model: str,
        version: int | str,
        alias: str = CHAMPION,
        *,
        check: Check = _anything,
        timeout: float = LOCK_SECONDS,
    ) -> int | None:
        """Point an alias to a version; pointing it back to an older one is a rollback.

        Args:
            model: Its name.
            version: A number or an alias.
            alias: A new one is created.
            check: Refuses to move the alias from the version that it points to.
            timeout: Seconds to wait for another change of the model.

        Returns:
            The version that it pointed to before; None if it is new.

        Raises:
            ModelNotFound: There is no such model.
            VersionNotFound: It has no such version.
            ValidationFailed: `alias` is not a valid name.
            Conflict: The model has too many aliases for a new one.
            LockHeldError: Another change of the model took longer than `timeout` seconds.
        """
        _checked(ALIAS_NAME, alias, "An alias")
        self.resolve(model, version)
        with self._locked_model(model, timeout) as aliases:
            number = self.resolve(model, version)
            check(aliases.aliases.get(alias))
            aliases.with_alias(alias, number).write(self._folder(model))
            return aliases.aliases.get(alias)

    def drop_alias(
        self,
        model: str,
        alias: str,
        *,
        check: Check = _anything,
        timeout: float = LOCK_SECONDS,
    ) -> None:
        """Remove an alias; nothing happens if it does not exist.

        Args:
            model: Its name.
            alias: The alias.
            check: As for `promote`.
            timeout: As for `promote`.

        Raises:
            LockHeldError: As `promote`.
        """
        with self._locked_model(model, timeout) as aliases:
            check(aliases.aliases.get(alias))
            aliases.without_alias(alias).write(self._folder(model))

    def delete(self, model: str, version: int, *, timeout: float = LOCK_SECONDS) -> None:
        """Delete a version. Its number is never used again.

        Raises:
            VersionNotFound: The model has no such version.
            VersionInUse: An alias points to it.
            LockHeldError: As `promote`.
        """
        self._existing(model, version)
        with self._locked_model(model, timeout) as aliases:
            folder = self._existing(model, version)
            if names := aliases.names_of(version):
                raise VersionInUse(
                    f"Version {version} of '{model}' is {' and '.join(names)}; "
                    "promote another version first."
                )
            aliases.with_version(version).write(self._folder(model))
            with self.staging() as trash:  # one rename, so no reader sees a half-deleted version
                folder.rename(trash / "deleted")

    def delete_damaged(self, model: str, text: str) -> list[int]:
        """Delete versions that can never be served, in quarantine or not, which mention a text.

        Args:
            text: What is looked for in the manifest, or what is left of it, and in the labels.

        Returns:
            The deleted versions.

        Raises:
            LockHeldError: As `promote`.
            OSError: One cannot be read at the moment.
        """
        home, deleted = self._folder(model), list[int]()
        folders = [home / _QUARANTINE / str(version) for version in self.quarantined(model)]
        folders += [home / str(version) for version in self.numbers(model)]
        for folder in folders:
            if not (_is_damaged(folder) and _mentions(folder, text)):
                continue
            with self._locked_model(model) as aliases, self.staging() as trash:
                aliases.with_version(int(folder.name)).write(home)
                folder.rename(trash / "deleted")
                deleted.append(int(folder.name))
        return deleted

    def verify(self, model: str, version: int) -> list[str]:
        """Compare every file of a version with its manifest; quarantine a damaged version.

        An alias that points to a quarantined version is not moved.

        Returns:
            One line for each problem. If there is any, the version is now in quarantine.

        Raises:
            VersionNotFound: The model has no such version.
            OSError: A file cannot be read at the moment; the version stays where it is.
        """
        folder = self._existing(model, version)
        problems = find_problems(folder)
        if not problems:
            return []
        with self._locked_model(model) as aliases:
            aliases.with_version(version).write(self._folder(model))
            quarantine = self._folder(model) / _QUARANTINE
            quarantine.mkdir(exist_ok=True)
            if folder.is_dir():  # another process may have moved it already
                folder.rename(quarantine / str(version))
        _LOG.error("%s %d went to quarantine: %s", model, version, "; ".join(problems))
        return problems

    def link_into(self, model: str, target: Path) -> None:
        """Make a snapshot of a model that later changes do not affect.

        Args:
            target: A folder on the file system of the store, preferably from `staging`; see
                `models.store.hardlinks`.
        """
        with self._locked_model(model):
            link_tree(self._folder(model), target, skip=lambda path: path.name == DERIVED)

    def lock(self, purpose: str, *, timeout: float = 600.0) -> AbstractContextManager[None]:
        """Hold the lock `purpose` among all processes that use the store.

        Raises:
            Unavailable: Another process held it for `timeout` seconds.
        """
        return locked(self._root / ".locks" / f"{purpose}.lock", timeout=timeout)

    @contextmanager
    def _locked_model(self, model: str, timeout: float = LOCK_SECONDS) -> Iterator[Aliases]:
        """Lock a model; yield its aliases, which the block may replace."""
        with self._lock(model, timeout):
            yield Aliases.read(self._folder(model))

    def _lock(self, model: str, timeout: float) -> AbstractContextManager[None]:
        self._folder(model).mkdir(parents=True, exist_ok=True)
        return locked(self._root / ".locks" / f"model-{model}.lock", timeout=timeout)

    def _folder(self, model: str) -> Path:
        return self._root / _checked(MODEL_NAME, model, "A model's name")

    def _existing(self, model: str, version: int) -> Path:
        folder = self._folder(model) / str(version)
        if not (folder / MANIFEST).is_file():
            raise self._missing(model, str(version))
        return folder

    def _lists_erased(self) -> bool:
        try:
            return bool(self._erased.ids())
        except OSError:
            return True

    def _require_unerased(self, manifest: Manifest) -> None:
        if not (subjects := manifest.provenance.subjects):
            return
        # Any key reads these errors: they do not say of whom it is. `opsin doctor` does.
        what = f"Version {manifest.version} of '{manifest.model}'"
        try:
            erased = self._erased.ids()
        except OSError:
            _LOG.exception("the list of erased subjects cannot be read")
            raise Unavailable(
                f"{what} cannot be used at the moment. Retry soon.",
                retry_after=5,
            ) from None
        if not erased.isdisjoint(subjects):
            raise VersionNotFound(f"{what} is being deleted; use another version or train again.")

    def _numbers(self, home: Path) -> list[int]:
        return [int(path.name) for path in home.iterdir() if _NUMBER.fullmatch(path.name)]

    def _missing(self, model: str, name: str) -> VersionNotFound:
        if (self._folder(model) / _QUARANTINE / name).is_dir():
            return VersionNotFound(
                f"Version {name} of '{model}' was found damaged and is in quarantine; "
                "use another version or publish it again."
            )
        known = few(str(number) for number in self.versions(model))
        try:
            aliases = few(self.aliases(model))
        except DamagedAliasesError:
            aliases = "unknown"
        return VersionNotFound(
            f"'{model}' has no version '{name[:64]}'. Versions: {known}; aliases: {aliases}."
        )


def _checked(pattern: str, name: str, what: str) -> str:
    """Return `name` if it is valid, so that no name leads out of the store."""
    if re.fullmatch(pattern, name):
        return name
    first = "a letter" if pattern == ALIAS_NAME else "a letter or a digit"
    raise ValidationFailed(f"{what} is 1 to 64 of a-z, 0-9, '-' and '_', and begins with {first}.")


def _is_damaged(folder: Path) -> bool:
    if folder.parent.name == _QUARANTINE:
        return True
    try:
        read_manifest(folder)
    except DamagedManifestError as error:
        return unreadable(error) is None
    return False


def _mentions(folder: Path, text: str) -> bool:
    for name in (MANIFEST, LABELS):
        with suppress(FileNotFoundError):
            if text.encode() in (folder / name).read_bytes():
                return True
    return False
