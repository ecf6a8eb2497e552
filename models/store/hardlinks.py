"""A folder as it is at one moment, held fast by hard links while the folder itself lives on.

What is stored here is never written in place: files appear and are replaced by renames. So a
second name for each file is a snapshot, made in the time that the names take and costing no room,
and it stays whole whatever is deleted or replaced meanwhile.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

Skip = Callable[[Path], bool]


def nothing(_inside: Path) -> bool:
    """Skips nothing."""
    return False


def link_tree(source: Path, target: Path, skip: Skip = nothing) -> None:
    """Give every file below a folder a second name below another.

    Links, pipes and the like are left out: nothing of ours is one. So are drafts, whose names
    begin with a dot.

    Args:
        source: The folder; nothing happens if it is not there.
        target: Where the second names are to be; made with its parents. Copies are made there
            where the file system has no hard links, or is another one.
        skip: Of a path relative to `source`, a file's or a folder's, whether to leave it out.
    """
    for folder, below, files in os.walk(source):
        inside = Path(folder).relative_to(source)
        below[:] = [one for one in below if not (one.startswith(".") or skip(inside / one))]
        (target / inside).mkdir(parents=True, exist_ok=True)
        for name in files:
            path = Path(folder, name)
            if name.startswith(".") or skip(inside / name) or path.is_symlink():
                continue
            if path.is_file():
                _link(path, target / inside / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return  # deleted this very moment
    except OSError:
        shutil.copyfile(source, target)
