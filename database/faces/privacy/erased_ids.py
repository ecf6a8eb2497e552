"""The ids of erased subjects in a file of the home that no restore replaces.

A backup from before an erasure brings the subject back; with this list the erasure is repeated.
Ids are random and say nothing about a person.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path

from contracts.errors import Unavailable
from contracts.faces.subjects import SUBJECT_ID

FILE = "erased-subjects"


def add_erased(home: Path, ids: Collection[str]) -> None:
    """Append ids that are not in the list, and flush them to the disk.

    Raises:
        Unavailable: The file cannot be written; the erasure has to be repeated.
    """
    try:
        new = sorted(set(ids) - erased_ids(home))
        if not new:
            return
        descriptor = os.open(home / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            # A line of its own, even after a line that a full disk has cut off.
            file.write("".join(f"\n{subject_id}\n" for subject_id in new))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise Unavailable("The erasure cannot be recorded on disk.", retry_after=30) from error


def erased_ids(home: Path) -> set[str]:
    """All ids of the list.

    Raises:
        OSError: It cannot be read.
    """
    try:
        lines = (home / FILE).read_text("ascii", errors="replace").split()
    except FileNotFoundError:
        return set()
    return {line for line in lines if re.match(SUBJECT_ID, line)}
