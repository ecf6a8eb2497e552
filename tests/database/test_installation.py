"""A home and a database belong together; files are deleted for want of a row only then."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from cli.output import CommandError
from cli.startup import migrate, require_home
from contracts.errors import Conflict, DiskUnusable
from contracts.faces.subjects import NewSubject
from contracts.settings import Settings
from database import installation
from database.crypto.cipher import open_cipher
from database.datasets import DatasetRows
from database.engine import open_engine
from database.faces.face_files import FaceFiles
from database.faces.frames import Frames
from database.faces.repositories import FaceRepositories
from database.installation import (
    FILE,
    adopt,
    belongs_to,
    home_id,
    require_database,
    require_mounted,
)
from database.jobs.files import JobFiles
from database.jobs.jobs import CreatedJob, Jobs
from database.migrations import upgrade
from models.datasets.store import DatasetStore
from tests.database.conftest import Clock


def furnish(home: Path) -> set[Path]:
    """An old file of a face and one of a job."""
    paths = {home / "faces/sub_1/ff_1", home / "jobs/job_1/artifacts/filters.png"}
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
        os.utime(path, (0, 0))
    os.utime(home / "jobs/job_1", (0, 0))
    return paths


def test_both_sides_share_an_id(tmp_path: Path, engine: Engine) -> None:
    adopt(engine, tmp_path)
    first = home_id(tmp_path)
    assert first is not None
    adopt(engine, tmp_path)
    assert home_id(tmp_path) == first
    assert belongs_to(engine, tmp_path)


@pytest.mark.parametrize("damage", ["unreadable", "no text"])
def test_an_id_that_cannot_be_read_is_neither_replaced_nor_believed(
    tmp_path: Path, engine: Engine, damage: str
) -> None:
    """A moment of a network disk must not give the home to another database."""
    furnish(tmp_path)
    marker = tmp_path / FILE
    if damage == "unreadable":
        marker.mkdir()  # any error but that it is missing
    else:
        marker.write_bytes(b"\xff\xfe")
    assert home_id(tmp_path) is None
    assert not belongs_to(engine, tmp_path)
    with pytest.raises(DiskUnusable, match="not mounted"):
        require_mounted(tmp_path)
    for check in (installation.require_home, adopt):
        with pytest.raises(Conflict, match="cannot be read"):
            check(engine, tmp_path)
    with pytest.raises(Conflict, match="cannot be read"):
        require_database(tmp_path)
    assert marker.is_dir() or marker.read_bytes() == b"\xff\xfe"


@pytest.mark.parametrize("has_table", [True, False])
def test_a_database_of_an_earlier_release_takes_over_the_id(
    tmp_path: Path, url: str, engine: Engine, has_table: bool
) -> None:
    change = "DELETE FROM installation" if has_table else "DROP TABLE installation"
    with engine.begin() as connection:
        connection.execute(text(change))
    (tmp_path / FILE).write_text("ins_1\n")
    assert not belongs_to(engine, tmp_path)
    migrate(Settings(_env_file=None, home=tmp_path, database_url=url))
    assert belongs_to(engine, tmp_path)
    assert home_id(tmp_path) == "ins_1"


def test_files_are_not_swept_for_another_database(
    tmp_path: Path, engine: Engine, clock: Clock
) -> None:
    paths = furnish(tmp_path)
    (tmp_path / FILE).write_text("ins_another\n")
    with pytest.raises(Conflict, match="OPSIN_DATABASE_URL"):
        adopt(engine, tmp_path)
    files = FaceFiles(tmp_path / "faces")
    cipher = open_cipher(Settings(_env_file=None, home=tmp_path), engine)
    frames, jobs = Frames(engine, cipher, files), Jobs(engine, clock, JobFiles(tmp_path / "jobs"))
    assert (frames.remove_orphans(), jobs.remove_orphans()) == (0, 0)
    assert all(path.exists() for path in paths)
    (tmp_path / FILE).unlink()
    adopt(engine, tmp_path)
    assert (frames.remove_orphans(), jobs.remove_orphans()) == (1, 1)


@pytest.mark.parametrize("has_id", [True, False])
def test_a_start_with_an_empty_database_is_refused(tmp_path: Path, has_id: bool) -> None:
    home = tmp_path / "home"
    furnish(home)
    if has_id:
        (home / FILE).write_text("ins_1\n")
    with pytest.raises(CommandError, match="OPSIN_DATABASE_URL"):
        migrate(Settings(_env_file=None, home=home))
    assert not (home / "opsin.db").exists()


def named(engine: Engine, clock: Clock, home: Path) -> dict[str, Callable[[], object]]:
    """Ways to give the database something whose files are in that home."""
    settings = Settings(_env_file=None, home=home)
    rows = DatasetRows(engine, clock)
    store = DatasetStore.of(settings)
    faces = FaceRepositories.of(settings, engine, clock)
    return {
        "datasets": lambda: rows.put(store.create("pets", None)),
        "jobs": lambda: Jobs(engine, clock).create("filters", {"layer": "conv1"}, limit=9),
        "enrolled people": lambda: faces.subjects.create(NewSubject(name="Ada")),
        "keys of faces": lambda: faces.keyed_hash.hexdigest(b"phone"),
    }


@pytest.mark.parametrize("has_id", [True, False])
@pytest.mark.parametrize("what", ["datasets", "jobs", "enrolled people", "keys of faces"])
def test_an_empty_home_is_not_taken_for_that_of_a_database(
    tmp_path: Path, url: str, engine: Engine, clock: Clock, what: str, has_id: bool
) -> None:
    """As if OPSIN_HOME were not set on another machine, or its disk not mounted."""
    home, empty = tmp_path / "home", tmp_path / "empty"
    settings = Settings(_env_file=None, home=home, database_url=url)
    migrate(settings, is_start=True)
    named(engine, clock, home)[what]()
    if not has_id:  # an earlier release
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE installation"))
        (home / FILE).unlink()
    wrong = settings.model_copy(update={"home": empty})
    with pytest.raises(CommandError, match=rf"holds {what}, and .*OPSIN_HOME") as refused:
        migrate(wrong)
    assert not empty.exists()
    assert inspect(engine).has_table("installation") == has_id, "nothing was changed"
    upgrade(url)
    with pytest.raises(Conflict):
        adopt(engine, empty)
    empty.mkdir(exist_ok=True)
    (home_id_to_write,) = re.findall(r"ins_\w+", str(refused.value))
    (empty / FILE).write_text(home_id_to_write)
    migrate(wrong)
    assert belongs_to(engine, empty), "the operator has said so"


@pytest.mark.parametrize("database_has_id", [True, False])
@pytest.mark.parametrize("what", ["datasets", "jobs", "enrolled people", "keys of faces"])
def test_a_home_of_an_earlier_release_is_known_by_its_files(
    tmp_path: Path, url: str, engine: Engine, clock: Clock, what: str, database_has_id: bool
) -> None:
    home = tmp_path / "home"
    settings = Settings(_env_file=None, home=home, database_url=url)
    made = named(engine, clock, home)[what]()
    if what == "jobs":
        assert isinstance(made, CreatedJob)
        (home / "jobs" / made.job.id).mkdir(parents=True)
    if not database_has_id:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE installation"))
        (home / "jobs").mkdir(exist_ok=True)
    migrate(settings)
    assert belongs_to(engine, home)
    migrate(settings)


def test_a_database_in_its_home_needs_no_files_there(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path)
    migrate(settings)
    engine = open_engine(settings.database)
    Jobs(engine, Clock()).create("filters", {"layer": "conv1"}, limit=9)
    (tmp_path / FILE).unlink()
    migrate(settings)
    assert belongs_to(engine, tmp_path)
    engine.dispose()


def test_people_without_a_file_are_restored_to_an_empty_home(
    tmp_path: Path, url: str, engine: Engine, clock: Clock
) -> None:
    named(engine, clock, tmp_path / "home")["enrolled people"]()
    settings = Settings(_env_file=None, home=tmp_path / "restored", database_url=url)
    migrate(settings, is_restored=True)
    migrate(settings)


def test_nothing_is_swept_while_the_disk_is_not_mounted(
    tmp_path: Path, engine: Engine, clock: Clock
) -> None:
    """Its mount point may hold files of an earlier time without it."""
    adopt(engine, tmp_path)
    paths = furnish(tmp_path)
    (tmp_path / FILE).unlink()
    files = FaceFiles(tmp_path / "faces")
    cipher = open_cipher(Settings(_env_file=None, home=tmp_path), engine)
    frames, jobs = Frames(engine, cipher, files), Jobs(engine, clock, JobFiles(tmp_path / "jobs"))
    assert (frames.remove_orphans(), jobs.remove_orphans()) == (0, 0)
    assert all(path.exists() for path in paths)


def test_only_a_start_gives_the_id_to_an_empty_home(
    tmp_path: Path, url: str, engine: Engine, clock: Clock
) -> None:
    """While the database names nothing, nothing shows that a command's OPSIN_HOME is wrong."""
    home, wrong = tmp_path / "home", tmp_path / "wrong"
    settings = Settings(_env_file=None, home=home, database_url=url)
    elsewhere = settings.model_copy(update={"home": wrong})
    migrate(settings, is_start=True)
    for refuse in (migrate, require_home):
        with pytest.raises(CommandError, match=r"OPSIN_HOME.*`opsin up`") as refused:
            refuse(elsewhere)
        assert refused.value.exit_code == 2
    assert not wrong.exists()
    named(engine, clock, home)["datasets"]()
    with pytest.raises(CommandError, match="holds datasets"):
        migrate(elsewhere, is_start=True)
    migrate(settings)
    require_home(settings)


def test_any_command_may_create_the_database(tmp_path: Path) -> None:
    apart = f"sqlite:///{tmp_path / 'apart.db'}"
    settings = Settings(_env_file=None, home=tmp_path / "home", database_url=apart)
    migrate(settings)
    migrate(settings)
    assert home_id(settings.home) is not None
