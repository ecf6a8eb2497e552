"""Snapshots of a folder by hard links.

Files in the stores are never written in place: they appear and are replaced by renames. A hard
link to each file is therefore a snapshot of the folder. It takes no space, is made quickly and
stays complete whatever is deleted or replaced afterwards.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def link_tree(source: Path, target: Path, *, skip: Callable[[Path], bool] | None = None) -> None:
    """Hard-link every file below `source` into `target`.

    Symbolic links, pipes and the like are left out, since Opsin creates none. So are drafts,
    whose names begin with a dot.

    Args:
        source: The folder; if it does not exist, nothing happens.
        target: Created with its parents. Files are copied if the file system has no hard links
            or `target` is on another one.
        skip: Whether to leave out a file or folder, given by its path relative to `source`.
    """

    def is_skipped(path: Path) -> bool:
        return path.name.startswith(".") or (skip is not None and skip(path))

    for parent, folders, files in os.walk(source):
        relative = Path(parent).relative_to(source)
        folders[:] = [name for name in folders if not is_skipped(relative / name)]
        (target / relative).mkdir(parents=True, exist_ok=True)
        for name in files:
            path = Path(parent, name)
            if path.is_file() and not (is_skipped(relative / name) or path.is_symlink()):
                _link(path, target / relative / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileNotFoundError:
        return  # deleted in the meantime
    except OSError:
        shutil.copyfile(source, target)
