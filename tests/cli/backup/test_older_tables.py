"""A backup of an earlier release replaces the tables of a later one in PostgreSQL."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect

from cli.backup import placing
from cli.commands.backup import restore_backup, write_backup
from cli.output import CommandError
from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.engine import open_engine, writing
from database.keys import Keys
from database.migrations import _config, current, newest, upgrade
from tests.ports import free_port
from tests.postgresql import empty_database

# In the place of pg_restore: fails with a message in Latin-1.
PG_RESTORE = """#!/bin/sh
printf 'pg_restore: error: f\\374r\\n' >&2
exit 1
"""


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(params=["0003", "0004"], ids=["no reference", "a reference"])
def settings(request: pytest.FixtureRequest, postgresql: str, tmp_path: Path) -> Settings:
    """Of a home whose database has the tables of an earlier release, and of its backup."""
    url = empty_database(postgresql, "opsin_older")
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port(), database_url=url)
    settings.home.mkdir()
    engine = open_engine(url)
    with writing(engine) as session:
        command.upgrade(_config(session.connection()), request.param)
    engine.dispose()
    write_backup(settings, tmp_path / "backup.tar", secrets=False)
    upgrade(url)
    return settings


def tables(settings: Settings) -> set[str]:
    engine = open_engine(settings.database)
    names = set(inspect(engine).get_table_names())
    engine.dispose()
    return names


def test_tables_that_the_backup_does_not_know_make_room(settings: Settings, tmp_path: Path) -> None:
    before = tables(settings)
    restore_backup(settings, tmp_path / "backup.tar", force=True)
    assert current(settings.database) == newest()
    assert tables(settings) == before
    engine = open_engine(settings.database)
    assert not inspect(engine).has_schema("opsin_replaced")
    engine.dispose()


def test_if_they_cannot_be_loaded_the_present_tables_are_there_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(settings)
    add_key(settings)
    with monkeypatch.context() as broken:
        broken.setattr(placing, "load_postgresql", refuse)
        with pytest.raises(CommandError, match="no such"):
            restore_backup(settings, tmp_path / "backup.tar", force=True)
    placing.require_whole(settings.home)
    assert (tables(settings), keys(settings)) == (before, ["mine"])
    restore_backup(settings, tmp_path / "backup.tar", force=True)
    assert (tables(settings), keys(settings)) == (before, [])


@pytest.mark.parametrize("killed", ["load_postgresql", "clear"])
def test_killed_in_between_it_is_finished_later(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    before = tables(settings)
    with monkeypatch.context() as broken:
        broken.setattr(placing, killed, die)
        with pytest.raises(SystemExit):
            restore_backup(settings, tmp_path / "backup.tar", force=True)
    restore_backup(settings, tmp_path / "backup.tar", force=True)
    assert current(settings.database) == newest()
    assert tables(settings) == before


def test_a_message_in_another_character_set_leaves_nothing_half_begun(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(settings)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "pg_restore").write_text(PG_RESTORE)
    (tools / "pg_restore").chmod(0o700)
    with monkeypatch.context() as broken:
        broken.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        with pytest.raises(CommandError, match=r"pg_restore: error: f.r"):
            restore_backup(settings, tmp_path / "backup.tar", force=True)
    placing.require_whole(settings.home)
    assert not (settings.home / ".restore").exists()
    assert tables(settings) == before


def refuse(*_: object) -> None:
    raise CommandError("pg_restore failed: no such thing")


def die(*_: object) -> None:
    raise SystemExit


def add_key(settings: Settings) -> None:
    engine = open_engine(settings.database)
    Keys(engine, now).create(NewKey(name="mine", scopes=["infer"]), actor=COMMAND)
    engine.dispose()


def keys(settings: Settings) -> list[str]:
    engine = open_engine(settings.database)
    names = [key.name for key in Keys(engine, now).list().items if key.revoked_at is None]
    engine.dispose()
    return names
