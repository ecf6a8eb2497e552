"""Reads the list of erased subjects, a file of the home that no restore replaces.

A backup from before an erasure brings the subject back; with this list the erasure is repeated, and
versions that were trained on the subject are refused. Ids are random and say nothing about a
person. `database.faces.privacy.erased_ids` writes it.
"""

import re
from pathlib import Path

from contracts.faces.subjects import SUBJECT_ID

FILE = "erased-subjects"


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


class ErasedIds:
    """The list in memory, read again when the file changes; safe to share among threads."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._known: tuple[tuple[int, ...], frozenset[str]] = ((), frozenset())

    def state(self) -> tuple[int, ...]:
        """What is another one after any change of the list; empty if there is none.

        Raises:
            OSError: It cannot be read.
        """
        try:
            file = (self._home / FILE).stat()
        except FileNotFoundError:
            return ()
        return file.st_ino, file.st_mtime_ns, file.st_size

    def ids(self) -> frozenset[str]:
        """All ids of the list.

        Raises:
            OSError: It cannot be read.
        """
        state, known = self.state(), self._known
        if known[0] != state:
            # The state is from before: what is written in between is read the next time.
            known = self._known = (state, frozenset(erased_ids(self._home)))
        return known[1]
