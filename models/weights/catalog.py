"""The weight files on this machine: which are here, and how to get those that are not.

    weights = Weights.of(settings)
    weights.find("squeezenet").path      # local only, quick
    weights.pull("squeezenet", bar)      # from the first source that can be reached

Nothing is downloaded but in `pull`, and `pull` is called by nothing but a person's command.
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
from models.weights.files import FetchError, Stamps
from models.weights.https import Progress, unwatched
from models.weights.lock import exclusive
from models.weights.source import fetch
from models.weights.sources import DirectoryFile, Format, Source, WeightEntry, weight_entries

_PULL_SECONDS = 2 * 3600.0  # half a gigabyte at 80 kB a second


class WeightsMissing(ModelNotReady):
    """Weights are not on this machine. The message says why and which command helps."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file that is here and has been checked.

    Attributes:
        path: Where it is.
        format: How it is to be read.
        source: Where it comes from, in words.
        digest: Its publisher's digest, as in weights.toml.
        companions: Files it is useless without, in weights.toml's order; checked too.
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
        content: What is in it.
        present: Whether a checked file is here.
        size: Bytes of the file that is here, or else of the one a pull would bring, if published.
        licence: SPDX name.
        source: Where the file comes from, or would.
        reason: Why it is not here; None if it is.
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
        home: The folder that pulled files are kept in.
        directory: A folder looked in after `home`, never written to.
        offline: Whether `pull` must not reach for the network.
        entries: What there is to find, by name; weights.toml if left out.
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
        self._stamps = Stamps(home / ".stamps")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.weights_home, settings.weights_dir, settings.offline)

    def find(self, name: str) -> WeightFile:
        """The file of that name on this machine: in the home, or else in the directory.

        A file is digested once and then known by its size and time, so this is cheap.

        Raises:
            NotFound: weights.toml has no such name.
            WeightsMissing: It is not here; says why and what helps.
        """
        return self._find(name, again=False)

    def verify(self, name: str) -> WeightFile:
        """Like `find`, but reads the file from end to end, whatever is known of it."""
        return self._find(name, again=True)

    def pull(self, name: str, progress: Progress = unwatched) -> WeightFile:
        """The file of that name, fetched from the first source that gives it if it is not here.

        Args:
            name: As in weights.toml.
            progress: Called with bytes had and bytes in all (None if unknown).

        Raises:
            NotFound: weights.toml has no such name.
            WeightsMissing: No source gave it; says why each did not.
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
            with exclusive(self._home / f".{name}.lock", timeout=_PULL_SECONDS):
                with contextlib.suppress(WeightsMissing):
                    return self.find(name)  # another process brought it while this one waited
                for source in entry.sources:
                    if isinstance(source, DirectoryFile):
                        continue
                    try:
                        fetch(source, self._home, progress=progress, deadline=deadline)
                    except FetchError as error:
                        failures[source.origin] = str(error)
                    else:
                        self._remember(name, {})
                        return self.verify(name)
                self._remember(name, failures)
        except FetchError as error:
            failures["this machine"] = str(error)
        except OSError as error:
            failures["this machine"] = f"the weights folder: {error.strerror}"
        raise self._missing(name, failures)

    def rows(self) -> tuple[WeightRow, ...]:
        """Every name of weights.toml and whether it is here."""
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

    def _find(self, name: str, *, again: bool) -> WeightFile:
        damaged: list[str] = []
        folders = [self._home] + ([self._directory] if self._directory else [])
        sources = self._entry(name).sources
        for folder in folders:
            for source in sources:
                for one in (*source.companions, source):
                    try:
                        if self._stamps.matches(folder / one.file, one.digest, again=again):
                            continue
                        damaged.append(f"{one.file} is there but damaged or another file")
                    except FileNotFoundError:
                        pass
                    except OSError as error:
                        damaged.append(f"{one.file} cannot be read ({error.strerror})")
                    break
                else:
                    return _file(folder, source)
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
        tried = self._recall(name) if failures is None else failures
        why = list(dict.fromkeys(damaged or ()))
        why += [f"{origin}: {reason}" for origin, reason in tried.items()]
        if self._offline:
            why.append("OPSIN_OFFLINE is set, so nothing is fetched")
        sentences = [
            f"The weights '{name}' ({entry.content}) are not here.",
            *([f"Tried: {'; '.join(why)}."] if why else []),
            f"Run `opsin weights pull {name}`, or set OPSIN_WEIGHTS_DIR to a folder with "
            f"{_spoken(entry.sources[0])}.",
        ]
        return WeightsMissing(" ".join(sentences))

    def _all(self) -> Mapping[str, WeightEntry]:
        return weight_entries() if self._entries is None else self._entries

    def _entry(self, name: str) -> WeightEntry:
        try:
            return self._all()[name]
        except KeyError:
            known = ", ".join(self._all())
            raise NotFound(f"There are no weights called '{name[:64]}'. Known: {known}.") from None

    def _failures_file(self, name: str) -> Path:
        return self._home / f".{name}.failures.json"

    def _remember(self, name: str, failures: dict[str, str]) -> None:
        """Keep why the last pull failed, for `find` to tell; an empty one forgets."""
        with contextlib.suppress(OSError):
            if failures:
                self._failures_file(name).write_text(json.dumps(failures))
            else:
                self._failures_file(name).unlink(missing_ok=True)

    def _recall(self, name: str) -> dict[str, str]:
        try:
            known = json.loads(self._failures_file(name).read_text())
        except (OSError, ValueError):
            return {}
        return {str(origin): str(reason) for origin, reason in known.items()}


def _file(folder: Path, source: Source) -> WeightFile:
    if source.format is None:
        raise ValueError(f"weights.toml gives no format for {source.file}")
    companions = tuple(folder / one.file for one in source.companions)
    path = folder / source.file
    return WeightFile(path, source.format, source.origin, source.digest, companions)


def _spoken(source: Source) -> str:
    """The files of a source, as a sentence names them."""
    *some, last = (source.file, *(one.file for one in source.companions))
    return f"{', '.join(some)} and {last}" if some else last
