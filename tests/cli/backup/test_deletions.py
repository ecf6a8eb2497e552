"""What is deleted while a backup is taken is not there after its restore."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cli.backup import placing
from cli.backup.contents import DatabaseKind, Header
from cli.backup.databases import dump
from cli.backup.packing import header_of
from cli.backup.restrictions import complete_restore
from cli.backup.snapshot import Snapshot
from cli.commands import backup as commands
from cli.commands.backup import restore_backup, write_backup
from cli.output import CommandError, notes
from contracts.settings import Settings
from database.datasets import DatasetRows
from database.engine import open_engine
from database.faces.privacy.erasures import Erasures
from models.datasets.store import DatasetStore
from tests.cli.backup.furnished import now
from tests.cli.backup.test_backup import Killed, people
from tests.cli.backup.test_restrictions import BACK, enroll, execute, opened
from tests.cli.running import ROOT
from tests.models.datasets.packing import photo, written

KILLED_BEFORE_ANYTHING_MOVES = """
import os, sys
from pathlib import Path
from cli.backup import placing
from cli.commands.backup import restore_backup
from contracts.settings import Settings
placing.place = lambda *_, **__: os._exit(9)
restore_backup(Settings(_env_file=None), Path(sys.argv[1]), force=True)
"""


def add_dataset(settings: Settings) -> str:
    images = written(settings.home.parent / "images", {"a/1.png": photo(1), "b/2.png": photo(2)})
    listing = DatasetStore.of(settings).create("pets", images)
    shutil.rmtree(images)
    engine = open_engine(settings.database)
    DatasetRows(engine, now).put(listing)
    engine.dispose()
    return listing.info.id


def datasets(settings: Settings) -> set[str]:
    engine = open_engine(settings.database)
    found = set(DatasetRows(engine, now).revisions())
    engine.dispose()
    return found


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None]) -> None:
    """Let something happen after the database was copied and before the files are linked."""

    def dumped(settings: Settings, into: Path) -> DatabaseKind | None:
        kind = dump(settings, into)
        happens()
        return kind

    monkeypatch.setattr("cli.backup.snapshot.dump", dumped)


def elsewhere(settings: Settings) -> Settings:
    """An empty home, which knows nothing of what happened in the other."""
    if settings.database_url is not None:
        execute(settings, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    home, url = settings.home.parent / "elsewhere", settings.database_url
    return Settings(_env_file=None, home=home, port=settings.port, database_url=url)


def test_datasets_and_people_that_were_deleted_meanwhile_do_not_come_back(
    settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, goes, half = (add_dataset(settings) for _ in range(3))
    gone = enroll(settings)

    def delete() -> None:
        engine = open_engine(settings.database)
        rows, library = DatasetRows(engine, now), DatasetStore.of(settings)
        for dataset_id in (goes, half):
            rows.hide(dataset_id)
            library.delete(dataset_id)
        rows.delete(goes)
        engine.dispose()
        with opened(settings) as faces:
            faces.subjects.erase(gone)

    with monkeypatch.context() as busy:
        meanwhile(busy, delete)
        write_backup(settings, out, secrets=True)
    if settings.database_url is None:  # a dump of PostgreSQL cannot be changed
        assert b"Ada" not in out.read_bytes()
    other = elsewhere(settings)
    restore_backup(other, out, force=True)
    assert datasets(other) == {stays}
    assert people(other) == set()
    engine = open_engine(other.database)
    assert Erasures(engine, now).pending(timedelta()) == [gone], "the service then ends it"
    engine.dispose()
    write_backup(other, out.with_name("next.tar"), secrets=True)


def test_a_dataset_without_its_folder_keeps_its_row(settings: Settings, out: Path) -> None:
    """Its disk was not mounted; nobody has deleted it."""
    lost, _ = add_dataset(settings), add_dataset(settings)
    (settings.datasets_home / lost).rename(out.with_name("aside"))
    with pytest.raises(CommandError, match=f"not complete: .* no folder of {lost}"):
        write_backup(settings, out, secrets=True)
    other = elsewhere(settings)
    restore_backup(other, out, force=True)
    assert lost in datasets(other)


def test_a_folder_that_is_missed_only_while_files_are_linked_is_named(
    settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup lacks it, whatever the home has by now."""
    lost = add_dataset(settings)
    monkeypatch.setattr(DatasetStore, "ids", lambda _: [])
    with pytest.raises(CommandError, match=f"no folder of {lost}"):
        write_backup(settings, out, secrets=True)


def test_a_backup_of_an_earlier_release_drops_no_row(
    settings: Settings, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say which folders were lost."""
    lost = add_dataset(settings)
    (settings.datasets_home / lost).rename(out.with_name("aside"))

    def earlier(content: Snapshot, revision: str | None) -> Header:
        return header_of(content, revision).model_copy(update={"lost_datasets": None})

    monkeypatch.setattr(commands, "header_of", earlier)
    with pytest.raises(CommandError, match="not complete"):
        write_backup(settings, out, secrets=True)
    other = elsewhere(settings)
    restore_backup(other, out, force=True)
    assert datasets(other) == {lost}


def test_who_was_erased_meanwhile_is_no_list_of_all_that_were_erased(
    settings: Settings,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In an empty home nobody knows who was erased after the backup."""
    gone, _ = enroll(settings), enroll(settings)

    def erase() -> None:
        with opened(settings) as faces:
            faces.subjects.erase(gone)

    with monkeypatch.context() as busy:
        meanwhile(busy, erase)
        write_backup(settings, out, secrets=True)
    restore_backup(elsewhere(settings), out, force=True)
    said = " ".join(capfd.readouterr().err.split())
    assert "erased people" in said.partition(BACK)[2]


def test_a_restore_that_was_killed_before_anything_moved_changes_nothing(
    settings: Settings, out: Path
) -> None:
    """What the backup says of its own database is not applied to the one in the home."""
    write_backup(settings, out, secrets=True)
    unmounted = add_dataset(settings)
    (settings.datasets_home / unmounted).rename(out.with_name("aside"))
    environment = os.environ | {
        "OPSIN_HOME": str(settings.home),
        "OPSIN_DATABASE_URL": settings.database,
        "OPSIN_PORT": str(settings.port),
    }
    command = [sys.executable, "-c", KILLED_BEFORE_ANYTHING_MOVES, str(out)]
    assert subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode == 9
    assert (settings.home / placing.NOTED).exists()
    placing.require_whole(settings.home)
    complete_restore(settings, notes())
    assert datasets(settings) == {unmounted}
    assert placing.discard(settings.home)  # as `opsin up` does
    assert not (settings.home / placing.NOTED).exists()


@pytest.mark.parametrize("moment", ["rename", "unlink", "rmtree"])
def test_a_restore_that_was_killed_after_the_last_move_erases_who_was_erased_meanwhile(
    settings: Settings, out: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = enroll(settings)

    def erase() -> None:
        with opened(settings) as faces:
            faces.subjects.erase(gone)

    with monkeypatch.context() as busy:
        meanwhile(busy, erase)
        write_backup(settings, out, secrets=True)
    other, owner = elsewhere(settings), shutil if moment == "rmtree" else Path
    victim = {"rename": "new", "unlink": "steps.json", "rmtree": ".restore"}[moment]
    real = getattr(owner, moment)

    def act(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == victim:
            raise Killed
        return real(path, *arguments, **options)

    with monkeypatch.context() as killed:
        killed.setattr(owner, moment, act)
        with pytest.raises(Killed):
            restore_backup(other, out, force=True)
    if settings.database_url is not None:  # a copy of SQLite is without those
        assert people(other) == {"Ada"}
    with pytest.raises(CommandError, match="interrupted"):
        placing.require_whole(other.home)
    placing.finish(other.home, other)
    complete_restore(other, notes())
    assert people(other) == set()
    placing.require_whole(other.home)
