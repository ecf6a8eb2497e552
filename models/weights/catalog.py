"""The weight files on this machine: finds those that exist and fetches those that are missing.

    weights = Weights.of(settings)
    weights.find("squeezenet").path      # local, fast
    weights.pull("squeezenet", bar)      # from the first source that can be reached

Only `pull` downloads anything, and only commands of a user call it.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from contracts.errors import ModelNotReady, NotFound
from contracts.settings import Settings
from contracts.suggestions import similar
from models.weights.fetch import fetch
from models.weights.files import DigestCache, DownloadProgress, FetchError, fetch_lock
from models.weights.sources import DirectoryFile, Format, Source, WeightEntry, weight_entries

_PULL_SECONDS = 2 * 3600.0  # half a gigabyte at 80 kB a second


class WeightsMissing(ModelNotReady):
    """Weights are missing on this machine. The message says why and which command helps."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A verified file on this machine.

    Attributes:
        source: Where it comes from, for people.
        digest: The publisher's digest, as in weights.toml.
        companions: Other files that it needs, in the order of weights.toml; verified too.
    """

    path: Path
    format: Format
    source: str
    digest: str
    companions: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class WeightRow:
    """One line of `opsin weights list`.

    Attributes:
        name: As in weights.toml.
        content: A one-line description.
        present: Whether a verified file exists.
        size: Bytes of the existing file, otherwise of the one that a pull would fetch, if known.
        licence: SPDX name.
        source: Where the file comes from, or would come from.
        reason: Why it is missing; None if it is present.
    """

    name: str
    content: str
    present: bool
    size: int | None
    licence: str
    source: str
    reason: str | None


class Weights:
    """The weights of one installation.

    Args:
        home: The folder for fetched files.
        directory: A second folder to search, never written to.
        offline: Whether `pull` must not use the network.
        entries: The known weights by name; by default those of weights.toml.
    """

    def __init__(
        self,
        home: Path,
        directory: Path | None,
        offline: bool,
        *,
        entries: Mapping[str, WeightEntry] | None = None,
    ) -> None:
        self._home = home
        self._directory = directory
        self._offline = offline
        self._entries = entries
        self._digests = DigestCache(home / ".stamps")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.weights_home, settings.weights_dir, settings.offline)

    def find(self, name: str) -> WeightFile:
        """Find weights in the home or, failing that, in the directory.

        A file is hashed once and then recognized by its size and time, so this is fast.

        Raises:
            NotFound: weights.toml has no such name.
            WeightsMissing: The file is missing; the message says why and what helps.
        """
        return self._find(name, reread=False)

    def verify(self, name: str) -> WeightFile:
        """Like `find`, but always reads the whole file."""
        return self._find(name, reread=True)

    def pull(self, name: str, progress: DownloadProgress | None = None) -> WeightFile:
        """Find weights or fetch them from the first source that works.

        Raises:
            NotFound: weights.toml has no such name.
            WeightsMissing: Every source failed; the message says why.
        """
        entry = self._entry(name)
        deadline = time.monotonic() + _PULL_SECONDS
        with contextlib.suppress(WeightsMissing):
            return self.find(name)
        if self._offline:
            raise self._missing(name)
        failures: dict[str, str] = {}
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with fetch_lock(self._home / f".{name}.lock", timeout=_PULL_SECONDS):
                with contextlib.suppress(WeightsMissing):
                    return self.find(name)  # another process fetched it while this one waited
                for source in entry.sources:
                    if isinstance(source, DirectoryFile):
                        continue
                    try:
                        fetch(source, self._home, progress=progress, deadline=deadline)
                    except FetchError as error:
                        failures[source.origin] = str(error)
                    else:
                        self._save_failures(name, {})
                        return self.verify(name)
                self._save_failures(name, failures)
        except FetchError as error:
            failures["this machine"] = str(error)
        except OSError as error:
            failures["this machine"] = f"the weights folder: {error.strerror}"
        raise self._missing(name, failures)

    def rows(self) -> tuple[WeightRow, ...]:
        """Every name of weights.toml and whether its file is present."""
        return tuple(self._row(name, entry) for name, entry in self._all().items())

    def _row(self, name: str, entry: WeightEntry) -> WeightRow:
        try:
            file = self.find(name)
        except WeightsMissing as error:
            fetchable = [s for s in entry.sources if not isinstance(s, DirectoryFile)]
            first = (*fetchable, *entry.sources)[0]
            return WeightRow(
                name,
                entry.content,
                False,
                first.whole_size,
                entry.licence,
                first.origin,
                error.detail,
            )
        size = sum(path.stat().st_size for path in (file.path, *file.companions))
        return WeightRow(name, entry.content, True, size, entry.licence, file.source, None)

    def _find(self, name: str, *, reread: bool) -> WeightFile:
        damaged: list[str] = []
        folders = [self._home] + ([self._directory] if self._directory else [])
        sources = self._entry(name).sources
        for folder in folders:
            for source in sources:
                for file in (*source.companions, source):
                    try:
                        if self._digests.matches(folder / file.file, file.digest, reread=reread):
                            continue
                        damaged.append(f"{file.file} is damaged or a different file")
                    except FileNotFoundError:
                        pass
                    except OSError as error:
                        damaged.append(f"{file.file} cannot be read ({error.strerror})")
                    break
                else:
                    return _weight_file(folder, source)
        raise self._missing(name, damaged=damaged)

    def _missing(
        self,
        name: str,
        failures: dict[str, str] | None = None,
        *,
        damaged: list[str] | None = None,
    ) -> WeightsMissing:
        """The error that says what is missing, why, and what helps. Names files, never paths."""
        entry = self._entry(name)
        failures = self._load_failures(name) if failures is None else failures
        reasons = list(dict.fromkeys(damaged or ()))
        reasons += [f"{origin}: {reason}" for origin, reason in failures.items()]
        if self._offline:
            reasons.append("OPSIN_OFFLINE is set, so nothing is fetched")
        sentences = [
            f"The weights '{name}' ({entry.content}) are not here.",
            *([f"Tried: {'; '.join(reasons)}."] if reasons else []),
            f"Run `opsin weights pull {name}`, or set OPSIN_WEIGHTS_DIR to a folder with "
            f"{_file_names(entry.sources[0])}.",
        ]
        return WeightsMissing(" ".join(sentences))

    def _all(self) -> Mapping[str, WeightEntry]:
        return weight_entries() if self._entries is None else self._entries

    def _entry(self, name: str) -> WeightEntry:
        try:
            return self._all()[name]
        except KeyError:
            known, hint = ", ".join(self._all()), similar(name, self._all())
            raise NotFound(
                f"There are no weights called '{name[:64]}'.{hint} Known: {known}."
            ) from None

    def _failures_file(self, name: str) -> Path:
        return self._home / f".{name}.failures.json"

    def _save_failures(self, name: str, failures: dict[str, str]) -> None:
        """Store why the last pull failed, for `find` to report."""
        with contextlib.suppress(OSError):
            if failures:
                self._failures_file(name).write_text(json.dumps(failures))
            else:
                self._failures_file(name).unlink(missing_ok=True)

    def _load_failures(self, name: str) -> dict[str, str]:
        try:
            failures = json.loads(self._failures_file(name).read_text())
        except (OSError, ValueError):
            return {}
        return {str(origin): str(reason) for origin, reason in failures.items()}


def _weight_file(folder: Path, source: Source) -> WeightFile:
    if source.format is None:
        raise ValueError(f"weights.toml gives no format for {source.file}")
    companions = tuple(folder / companion.file for companion in source.companions)
    path = folder / source.file
    return WeightFile(path, source.format, source.origin, source.digest, companions)


def _file_names(source: Source) -> str:
    """The files of a source, for a sentence."""
    *first, last = (source.file, *(companion.file for companion in source.companions))
    return f"{', '.join(first)} and {last}" if first else last
