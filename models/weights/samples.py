"""A few free photos, so that there is something to send with a first request."""

import time
from pathlib import Path
from typing import Self

from contracts.settings import Settings
from models.weights.fetch import package
from models.weights.files import DigestCache, DownloadProgress, FetchError, fetch_lock
from models.weights.packages import extract
from models.weights.sources import PackageFile, sample_files

_PULL_SECONDS = 1800.0


class SamplesMissingError(Exception):
    """Sample photos are missing. The message says why and which command helps."""


class Samples:
    """The sample photos of one installation: cat.png, coffee.png, astronaut.png.

    Args:
        offline: Whether `pull` must not use the network.
        files: Members of one package; by default the rows of samples.toml.
    """

    def __init__(
        self, folder: Path, offline: bool, *, files: tuple[PackageFile, ...] | None = None
    ) -> None:
        self._folder = folder
        self._files = sample_files() if files is None else files
        self._offline = offline
        self._digests = DigestCache(folder / ".stamps")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.home / "samples", settings.offline)

    def find(self) -> tuple[Path, ...]:
        """The paths of all photos.

        Raises:
            SamplesMissingError: At least one is missing or damaged.
        """
        missing = [row.file for row in self._files if not self._has(row.file, row.digest)]
        if missing:
            raise SamplesMissingError(
                f"The sample photos {', '.join(missing)} are not on this machine. "
                "Run `opsin weights pull` while a package registry can be reached."
            )
        return tuple(self._folder / row.file for row in self._files)

    def pull(self, progress: DownloadProgress | None = None) -> tuple[Path, ...]:
        """The paths of all photos, which are fetched in one package if necessary.

        Raises:
            SamplesMissingError: They could not be fetched; the message says why.
        """
        try:
            return self.find()
        except SamplesMissingError as error:
            if self._offline:
                raise SamplesMissingError(f"{error} OPSIN_OFFLINE is set now.") from None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with fetch_lock(self._folder / ".lock", timeout=_PULL_SECONDS):
                self._fetch(progress)
        except FetchError as error:
            raise SamplesMissingError(f"The sample photos could not be fetched: {error}.") from None
        except OSError as error:
            raise SamplesMissingError(f"The samples folder: {error.strerror}.") from error
        return self.find()

    def _fetch(self, progress: DownloadProgress | None) -> None:
        rows = [row for row in self._files if not self._has(row.file, row.digest)]
        if not rows:
            return  # another process fetched them while this one waited
        deadline = time.monotonic() + _PULL_SECONDS
        with package(rows[0], self._folder, progress=progress, deadline=deadline) as archive:
            for row in rows:
                extract(archive, row.member, self._folder / row.file, row.digest)

    def _has(self, name: str, digest: str) -> bool:
        try:
            return self._digests.matches(self._folder / name, digest)
        except OSError:
            return False
