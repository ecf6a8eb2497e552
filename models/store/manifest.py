"""The manifest of a version on the disk: hashing, writing, reading, checking.

`derived/` holds files that can be made again (downloads in other formats) and is not part of the
version. Every other file is listed with its hash, and no unlisted file may be present.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from contracts.files import write_durably
from contracts.inference.manifest import FileRecord, Manifest

MANIFEST = "manifest.json"
DERIVED = "derived"


class DamagedManifestError(ValueError):
    """The manifest is missing or unreadable."""


def hash_files(folder: Path) -> dict[str, FileRecord]:
    """Size and SHA-256 of every file of a version, by its path relative to `folder`."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(
            sha256=sha256_of(path), size=path.stat().st_size
        )
        for path in sorted(_content(folder))
    }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically."""
    write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the version in `folder`.

    Raises:
        DamagedManifestError: It is missing or cannot be read.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise DamagedManifestError(f"{MANIFEST} cannot be read") from error


def unreadable(error: DamagedManifestError) -> OSError | None:
    """Why the manifest cannot be read at the moment; None if it is missing or damaged."""
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        return cause
    return None


def find_problems(folder: Path) -> list[str]:
    """Compare the files of a version with its manifest; return one line for each problem.

    Raises:
        OSError: A file cannot be read at the moment, which says nothing about its content.
    """
    try:
        manifest = read_manifest(folder)
    except DamagedManifestError as error:
        if (cause := unreadable(error)) is not None:
            raise cause from None
        return [str(error)]
    found: list[str] = []
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != record.size:
            found.append(f"{name} has {path.stat().st_size} bytes, not {record.size}")
        elif sha256_of(path) != record.sha256:
            found.append(f"{name} has changed since it was published")
    listed = {folder / name for name in manifest.files}
    found += [
        f"{path.relative_to(folder).as_posix()} does not belong here"
        for path in sorted(_content(folder))
        if path not in listed
    ]
    return found


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that readers see either the old or the new content, never a part."""
    write_durably(path, text.encode(), mode=0o666)


def _content(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_dir() or relative.parts[0] == DERIVED or relative == Path(MANIFEST):
            continue
        if not path.name.startswith("."):
            yield path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
