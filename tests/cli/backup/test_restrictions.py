"""What was revoked since a backup stays so, or the restore says that it cannot know."""

from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from cli.backup import placing
from cli.backup.restrictions import complete_restore
from cli.commands import backup as commands
from cli.commands.backup import restore_backup, write_backup
from cli.output import CommandError, notes
from cli.startup import migrate
from cli.streams import quiet
from contracts.faces.subjects import NewSubject
from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND
from database.engine import open_engine, writing
from database.faces.repositories import FaceRepositories
from database.keys import Keys
from database.migrations import _config, current, newest, upgrade
from tests.cli.backup.furnished import now
from tests.cli.running import free_port
from tests.database.conftest import postgresql  # noqa: F401  a fixture

REVISIONS = sorted(one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions())
FIRST_WITH_KEYS = "0005"
BACK = "may be back"


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Of an empty home, and of a database without tables."""
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    settings.home.mkdir()
    if request.param == "sqlite":
        return settings
    server: str = request.getfixturevalue("postgresql")
    name = f"taken_{tmp_path.name.lower().replace('-', '_')}"[:60]
    with closing(psycopg.connect(server.replace("+psycopg", ""), autocommit=True)) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    url = server.removesuffix("postgres") + name
    return settings.model_copy(update={"database_url": url})


@pytest.fixture
def sqlite(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, home=tmp_path / "home", port=free_port())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"


def add_key(settings: Settings, name: str = "leaked") -> str:
    engine = open_engine(settings.database)
    key_id = Keys(engine, now).create(NewKey(name=name, scopes=["admin"]), actor=COMMAND).id
    engine.dispose()
    return key_id


def revoke(settings: Settings, key_id: str) -> None:
    engine = open_engine(settings.database)
    Keys(engine, now).revoke(key_id, actor=COMMAND)
    engine.dispose()


def working(settings: Settings) -> list[str]:
    engine = open_engine(settings.database)
    names = [key.name for key in Keys(engine, now).list().items if key.revoked_at is None]
    engine.dispose()
    return names


def execute(settings: Settings, *statements: str) -> None:
    engine = open_engine(settings.database)
    with writing(engine) as session:
        for statement in statements:
            session.execute(text(statement))
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS)
def test_tables_of_every_earlier_release_are_read(
    settings: Settings, out: Path, revision: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The package was upgraded, and the backup is restored before the first start."""
    engine = open_engine(settings.database)
    with writing(engine) as session:
        command.upgrade(_config(session.connection()), revision)
    engine.dispose()
    leaked = add_key(settings) if revision >= FIRST_WITH_KEYS else None
    write_backup(settings, out, secrets=False)
    if leaked is not None:
        revoke(settings, leaked)
    restore_backup(settings, out, force=True)
    assert current(settings.database) == newest()
    assert working(settings) == []
    assert BACK not in capfd.readouterr().err


def test_columns_of_a_later_release_that_are_not_known_are_reported(
    settings: Settings, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    migrate(settings)
    leaked = add_key(settings)
    write_backup(settings, out, secrets=False)
    revoke(settings, leaked)
    execute(
        settings,
        "ALTER TABLE api_keys RENAME COLUMN revoked_at TO ended_at",
        "UPDATE alembic_version SET version_num = '9999'",
    )
    restore_backup(settings, out, force=True)
    assert working(settings) == ["leaked"]
    said = capfd.readouterr().err
    assert f"{BACK}: keys." in said
    assert "opsin keys list" in said


@pytest.mark.parametrize("damage", ["header", "middle"])
def test_a_damaged_database_is_replaced_and_the_restore_says_what_it_cannot_know(
    sqlite: Settings, out: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    upgrade(sqlite.database)
    leaked = add_key(sqlite)
    write_backup(sqlite, out, secrets=False)
    revoke(sqlite, leaked)
    file = sqlite.home / "opsin.db"
    content = bytearray(file.read_bytes())
    start, end = (0, 100) if damage == "header" else (len(content) // 3, 2 * len(content) // 3)
    content[start:end] = b"\xff" * (end - start)
    file.write_bytes(content)
    restore_backup(sqlite, out, force=True)
    assert len(working(sqlite)) <= 1
    assert f"{BACK}: keys. Do that again." in capfd.readouterr().err
    (kept,) = sqlite.home.glob("replaced-*")
    assert (kept / "opsin.db").read_bytes() == content


def test_a_database_that_was_moved_aside_is_missed(
    sqlite: Settings, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    upgrade(sqlite.database)
    leaked = add_key(sqlite)
    write_backup(sqlite, out, secrets=False)
    revoke(sqlite, leaked)
    (sqlite.home / "opsin.db").rename(out.with_name("damaged.db"))
    capfd.readouterr()
    token = quiet.set(True)
    restore_backup(sqlite, out, force=True)
    quiet.reset(token)
    assert working(sqlite) == ["leaked"]
    assert f"{BACK}: keys." in capfd.readouterr().err, "with --quiet too"


def test_a_damaged_note_does_not_keep_a_restore_unfinished(
    sqlite: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    upgrade(sqlite.database)
    add_key(sqlite)
    (sqlite.home / placing.NOTED).write_text("{")
    complete_restore(sqlite, notes())
    placing.require_whole(sqlite.home)
    assert f"{BACK}: keys." in capfd.readouterr().err


def test_nothing_is_said_where_a_backup_brings_nothing_back(
    sqlite: Settings, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    upgrade(sqlite.database)
    revoke(sqlite, add_key(sqlite))
    write_backup(sqlite, out, secrets=False)
    (sqlite.home / "opsin.db").unlink()
    restore_backup(sqlite, out, force=True)
    assert BACK not in capfd.readouterr().err


@pytest.mark.parametrize("since", ["nothing", "rotated", "lost"])
def test_a_token_key_that_was_replaced_since_signs_no_more(
    settings: Settings, out: Path, since: str
) -> None:
    upgrade(settings.database)
    first = signing_key(settings)
    write_backup(settings, out, secrets=False)
    if since == "rotated":
        engine = open_engine(settings.database)
        FaceRepositories.of(settings, engine, now).token_keys.rotate()
        engine.dispose()
    elif since == "lost":
        execute(settings, "DELETE FROM face_settings")
    restore_backup(settings, out, force=True)
    assert (signing_key(settings) == first) == (since == "nothing")
    assert (first in public_keys(settings)) == (since == "nothing")


def signing_key(settings: Settings) -> str:
    engine = open_engine(settings.database)
    key_id = FaceRepositories.of(settings, engine, now).token_keys.signing().id
    engine.dispose()
    return key_id


def public_keys(settings: Settings) -> list[str]:
    engine = open_engine(settings.database)
    ids = [key.id for key in FaceRepositories.of(settings, engine, now).token_keys.public()]
    engine.dispose()
    return ids


def test_the_room_that_is_said_to_be_needed_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figure once left out what is kept free."""
    usage = SimpleNamespace(free=26 * 10**6)
    monkeypatch.setattr(commands.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CommandError, match=r"77 MB are needed .* 26 MB are free. Free 51 MB more"):
        commands._require_room(tmp_path, 9 * 10**6)
    usage.free += 51 * 10**6
    commands._require_room(tmp_path, 9 * 10**6)


@pytest.mark.parametrize("since", ["nothing", "replaced", "removed"])
def test_the_key_of_a_device_that_was_replaced_since_does_not_come_back(
    settings: Settings, out: Path, since: str
) -> None:
    """The new phone often gets the name of the one that was lost."""
    upgrade(settings.database)
    engine = open_engine(settings.database)
    faces = FaceRepositories.of(settings, engine, now)
    ada = faces.subjects.create(NewSubject(name="Ada"))["id"]
    lost, new = ({"kty": "EC", "x": name} for name in ("lost", "new"))
    faces.devices.add(ada, "phone", lost)
    engine.dispose()
    write_backup(settings, out, secrets=False)
    if since != "nothing":
        faces.devices.remove(ada, "phone")
    if since == "replaced":
        faces.devices.add(ada, "phone", new)
    engine.dispose()
    restore_backup(settings, out, force=True)
    keys = [device.public_key for device in faces.devices.list(ada)]
    engine.dispose()
    assert keys == ([lost] if since == "nothing" else [])
