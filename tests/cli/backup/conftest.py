"""Homes to back up, with SQLite and with PostgreSQL."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from contracts.settings import Settings
from tests.ports import free_port
from tests.postgresql import empty_database
from tests.tables import make_home

DATABASES = ("sqlite", "postgresql")


def with_both(
    cases: Sequence[tuple[Any, ...]], *, on_postgresql: Collection[tuple[Any, ...]]
) -> list[Any]:
    """Parameters for `settings` and more: all cases with SQLite, and with PostgreSQL.

    Args:
        on_postgresql: What is not slow with PostgreSQL: enough to show that its queries find the
            same as those of SQLite. The rules are tested with SQLite, in a third of the time.
    """
    assert set(on_postgresql) <= set(cases)
    slow = [case for case in cases if case not in on_postgresql]
    return [
        *(("sqlite", *case) for case in cases),
        *(("postgresql", *case) for case in on_postgresql),
        *(pytest.param("postgresql", *case, marks=pytest.mark.slow) for case in slow),
    ]


@pytest.fixture
def sqlite(tmp_path: Path) -> Settings:
    """Of a new home with SQLite."""
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    make_home(settings)
    return settings


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Of a new home and its database."""
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    if request.param == "postgresql":
        server: str = request.getfixturevalue("postgresql")
        url = server.rpartition("/")[0] + "/opsin"
        settings = settings.model_copy(update={"database_url": url})
    make_home(settings)
    return settings


@pytest.fixture(params=DATABASES)
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Of an empty home, and of a database without tables."""
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    settings.home.mkdir()
    if request.param == "postgresql":
        url = empty_database(request.getfixturevalue("postgresql"), "opsin_empty")
        settings = settings.model_copy(update={"database_url": url})
    return settings


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"
