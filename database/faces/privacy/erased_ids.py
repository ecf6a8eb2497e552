"""Writes the ids of erased subjects to a file of the home; see `contracts.faces.erased_ids`."""

import os
from collections.abc import Collection
from pathlib import Path

from contracts.errors import Unavailable
from contracts.faces.erased_ids import FILE, erased_ids, list_of
from contracts.files import flush_entries

__all__ = ["FILE", "add_erased", "erased_ids"]


def add_erased(home: Path, ids: Collection[str]) -> None:
    """Append ids that are not in the list, and flush them to the disk.

    Raises:
        Unavailable: The file cannot be written; the erasure has to be repeated.
    """
    try:
        new = sorted(set(ids) - list_of(home).ids())
        if not new:
            return
        is_first = not (home / FILE).exists()
        descriptor = os.open(home / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            # A line of its own, even after a line that a full disk has cut off.
            file.write("".join(f"\n{subject_id}\n" for subject_id in new))
            file.flush()
            os.fsync(file.fileno())
        if is_first:
            flush_entries(home)
    except OSError as error:
        raise Unavailable("The erasure cannot be recorded on disk.", retry_after=30) from error
