"""A replica of an SQLite database that becomes the database without the last changes."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Engine


class Replica:
    """What a database holds now.

    Args:
        engine: Of an SQLite file.
        folder: For the copy.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._database = engine.url.database or ""
        self._copy = str(folder / "replica.db")
        _copy(self._database, self._copy)

    def promote(self) -> None:
        """Let the database hold that again, while others have it open."""
        _copy(self._copy, self._database)


def _copy(source: str, target: str) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)
