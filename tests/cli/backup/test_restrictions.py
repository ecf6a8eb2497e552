"""What was revoked since a backup stays so, or the restore says that it cannot know."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from types import SimpleNamespace

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
from contracts.faces.consent import NewConsent
from contracts.faces.subjects import NewSubject, SubjectChange
from contracts.keys import NewKey
from contracts.settings import Settings
from database import taken_back
from database.audit import COMMAND
from database.engine import open_engine, writing
from database.faces.repositories import FaceRepositories
from database.keys import Keys
from database.migrations import _config, current, newest
from tests.cli.backup.conftest import with_both
from tests.cli.backup.furnished import now

REVISIONS = sorted(one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions())
FIRST_WITH_KEYS = "0005"
BACK = "may be back"
LATER = datetime(2031, 1, 1, tzinfo=UTC)


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


@pytest.mark.parametrize(
    ("bare", "revision"),
    with_both(
        [(revision,) for revision in REVISIONS],
        on_postgresql=[(REVISIONS[0],), (FIRST_WITH_KEYS,), (REVISIONS[-1],)],
    ),
    indirect=["bare"],
)
def test_tables_of_every_earlier_release_are_read(
    bare: Settings, out: Path, revision: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The package was upgraded, and the backup is restored before the first start."""
    engine = open_engine(bare.database)
    with writing(engine) as session:
        command.upgrade(_config(session.connection()), revision)
    engine.dispose()
    leaked = add_key(bare) if revision >= FIRST_WITH_KEYS else None
    write_backup(bare, out, secrets=False)
    if leaked is not None:
        revoke(bare, leaked)
    restore_backup(bare, out, force=True)
    assert current(bare.database) == newest()
    assert working(bare) == []
    assert BACK not in capfd.readouterr().err


def test_columns_of_a_later_release_that_are_not_known_are_reported(
    settings: Settings, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
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


def page_of(file: Path, table: str) -> tuple[int, int]:
    """Where the root page of a table begins and ends."""
    with closing(sqlite3.connect(file)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        root = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,) = connection.execute(root, [table]).fetchone()
    return (page - 1) * size, page * size


@pytest.mark.parametrize("damage", ["header", "table"])
def test_a_damaged_database_is_replaced_and_the_restore_says_what_it_cannot_know(
    sqlite: Settings, out: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    leaked = add_key(sqlite)
    write_backup(sqlite, out, secrets=False)
    revoke(sqlite, leaked)
    file = sqlite.home / "opsin.db"
    content = bytearray(file.read_bytes())
    start, end = (0, 100) if damage == "header" else page_of(file, "api_keys")
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
    add_key(sqlite)
    (sqlite.home / placing.NOTED).write_text("{")
    complete_restore(sqlite, notes())
    placing.require_whole(sqlite.home)
    assert f"{BACK}: keys." in capfd.readouterr().err


def test_nothing_is_said_where_a_backup_brings_nothing_back(
    sqlite: Settings, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    revoke(sqlite, add_key(sqlite))
    write_backup(sqlite, out, secrets=False)
    (sqlite.home / "opsin.db").unlink()
    restore_backup(sqlite, out, force=True)
    assert BACK not in capfd.readouterr().err


@pytest.mark.parametrize("since", ["nothing", "rotated", "lost"])
def test_a_token_key_that_was_replaced_since_signs_no_more(
    settings: Settings, out: Path, since: str
) -> None:
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


CONSENT = NewConsent(
    version="1", text_digest="sha256:" + "0" * 64, at=datetime(2020, 1, 1, tzinfo=UTC)
)


@contextmanager
def opened(settings: Settings) -> Iterator[FaceRepositories]:
    engine = open_engine(settings.database)
    yield FaceRepositories.of(settings, engine, now)
    engine.dispose()


def enroll(settings: Settings) -> str:
    """Ada, with a consent, a phone and a watch."""
    with opened(settings) as faces:
        ada: str = faces.subjects.create(NewSubject(name="Ada", consent=CONSENT))["id"]
        for name in ("phone", "watch"):
            faces.devices.add(ada, name, {"kty": "EC", "x": name})
    return ada


def state(settings: Settings, subject: str) -> tuple[bool, bool, list[str]]:
    """Whether a subject has a consent, whether its face is disabled, and its devices."""
    with opened(settings) as faces:
        standing = faces.standings.get(subject)
        names = [device.device_id for device in faces.devices.list(subject)]
    return standing.consent is not None, standing.disabled, names


@pytest.mark.parametrize("between", ["", "the database is deleted"])
def test_what_was_taken_back_stays_so_after_the_wrong_backup_was_restored_first(
    bare: Settings, tmp_path: Path, between: str
) -> None:
    """The wrong one is older than the key and the person, so its database knows neither."""
    wrong, right = tmp_path / "1.tar", tmp_path / "2.tar"
    migrate(bare)
    add_key(bare, "first")
    write_backup(bare, wrong, secrets=False)
    migrate(bare)
    leaked, ada = add_key(bare), enroll(bare)
    write_backup(bare, right, secrets=False)
    revoke(bare, leaked)
    with opened(bare) as faces:
        faces.subjects.change(ada, SubjectChange(consent=None, face_disabled=True))
        faces.devices.remove(ada, "phone")
    restore_backup(bare, wrong, force=True)
    if between == "the database is deleted" and bare.database_url is None:
        (bare.home / "opsin.db").unlink()
    for _ in range(2):
        restore_backup(bare, right, force=True)
        assert "leaked" not in working(bare)
        assert state(bare, ada) == (False, True, ["watch"])
    file = bare.home / taken_back.FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert not any(word in file.read_text() for word in ("phone", "watch", "Ada", "leaked"))


def test_what_was_allowed_again_after_the_restore_is_allowed(
    settings: Settings, tmp_path: Path
) -> None:
    """By a backup of that time, restored after another wrong one."""
    wrong, right, later = (tmp_path / f"{place}.tar" for place in range(3))
    write_backup(settings, wrong, secrets=False)
    ada = enroll(settings)
    write_backup(settings, right, secrets=False)
    with opened(settings) as faces:
        faces.subjects.change(ada, SubjectChange(consent=None, face_disabled=True))
        faces.devices.remove(ada, "phone")
    restore_backup(settings, wrong, force=True)
    restore_backup(settings, right, force=True)
    with opened(settings) as faces:
        faces.subjects.change(ada, SubjectChange(consent=CONSENT, face_disabled=False))
        faces.devices.add(ada, "phone", {"kty": "EC", "x": "new"})
    write_backup(settings, later, secrets=False)
    if settings.database_url is None:  # then only the file knows anything
        (settings.home / "opsin.db").unlink()
    restore_backup(settings, later, force=True)
    assert state(settings, ada) == (True, False, ["watch", "phone"])
    restore_backup(settings, wrong, force=True)
    restore_backup(settings, later, force=True)
    assert state(settings, ada) == (True, False, ["watch", "phone"])
    restore_backup(settings, right, force=True)
    assert state(settings, ada) == (True, False, ["watch"]), "the lost phone has another key"


def test_a_damaged_file_of_earlier_restores_is_refused(sqlite: Settings, out: Path) -> None:
    leaked = add_key(sqlite)
    write_backup(sqlite, out, secrets=False)
    revoke(sqlite, leaked)
    (sqlite.home / taken_back.FILE).write_text('{"keys": {"key_')
    with pytest.raises(CommandError, match=r"taken-back.json is damaged"):
        restore_backup(sqlite, out, force=True)
    placing.require_whole(sqlite.home)
    (sqlite.home / taken_back.FILE).unlink()
    restore_backup(sqlite, out, force=True)
    assert working(sqlite) == []


def test_an_erased_person_leaves_no_more_than_the_id(sqlite: Settings, out: Path) -> None:
    ada = enroll(sqlite)
    write_backup(sqlite, out, secrets=False)
    restore_backup(sqlite, out, force=True)
    assert ada in (sqlite.home / taken_back.FILE).read_text()
    with opened(sqlite) as faces:
        faces.subjects.erase(ada)
    restore_backup(sqlite, out, force=True)
    assert ada not in (sqlite.home / taken_back.FILE).read_text()


@pytest.mark.parametrize(
    ("settings", "ends_before", "is_wrong_first"),
    with_both(
        list(product((None, LATER), (False, True))), on_postgresql=[(None, True), (LATER, False)]
    ),
    indirect=["settings"],
)
def test_a_consent_that_ends_earlier_since_does_not_last_longer_again(
    settings: Settings, tmp_path: Path, ends_before: datetime | None, is_wrong_first: bool
) -> None:
    wrong, right = tmp_path / "1.tar", tmp_path / "2.tar"
    write_backup(settings, wrong, secrets=False)
    subjects, earlier = [enroll(settings) for _ in range(2)], datetime(2030, 1, 1, tzinfo=UTC)
    before, since = ([ends_before, earlier], [earlier, None])
    change(settings, subjects, before)
    write_backup(settings, right, secrets=False)
    change(settings, subjects, since)
    if is_wrong_first:
        restore_backup(settings, wrong, force=True)
    restore_backup(settings, right, force=True)
    with opened(settings) as faces:
        consents = [faces.standings.get(one).consent for one in subjects]
        assert [consent and consent.expires_at for consent in consents] == [earlier, earlier]


def change(settings: Settings, subjects: list[str], ends: list[datetime | None]) -> None:
    """Record a consent of each subject, which ends then."""
    with opened(settings) as faces:
        for subject, end in zip(subjects, ends, strict=True):
            consent = CONSENT.model_copy(update={"expires_at": end})
            faces.subjects.change(subject, SubjectChange(consent=consent))
