"""What digests were found, so that a start does not read half a gigabyte to learn it again."""

import contextlib
import hashlib
import json
from pathlib import Path

from models.fetching.digest import matches


class Stamps:
    """Remembers in `folder` which files have which digest, as long as size and time stay.

    This trusts the disk, not the world: whoever can change a file and set its time back could as
    well change the stamp. `opsin weights verify` reads everything again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def matches(self, path: Path, digest: str, *, again: bool = False) -> bool:
        """Whether the file at `path` has that digest.

        Args:
            path: The file.
            digest: As `Check` takes it.
            again: Read the file even if a stamp knows.

        Raises:
            OSError: The file cannot be read.
        """
        status = path.stat()
        now = {"digest": digest, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
        stamp = (
            self._folder / f"{hashlib.sha256(f'{path}|{digest}'.encode()).hexdigest()[:24]}.json"
        )
        if not again:
            with contextlib.suppress(OSError, ValueError):
                known = json.loads(stamp.read_text())
                if known.items() >= now.items():
                    return bool(known["matches"])
        result = matches(path, digest)
        # A folder that cannot be written to costs time at every start, and nothing else.
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            part = stamp.with_suffix(".part")
            part.write_text(json.dumps(now | {"matches": result}))
            part.replace(stamp)
        return result
