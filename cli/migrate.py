"""Brings the database to this version's tables before anything uses it."""

from pathlib import Path

from contracts.settings import Settings


def migrate(settings: Settings) -> None:
    """Creates or upgrades the tables; does nothing where they are current."""
    from database.migrations import upgrade  # SQLAlchemy; not for `--help`

    if settings.database_url is None:
        Path(settings.home).mkdir(mode=0o700, parents=True, exist_ok=True)
    upgrade(settings.database)
