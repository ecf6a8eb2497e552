"""A home and a database belong together; files are deleted for want of a row only then."""

import os
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from cli.output import CommandError
from cli.startup import migrate
from contracts.errors import Conflict
from contracts.settings import Settings
from database.crypto.envelope import EnvelopeCipher
from database.faces.face_files import FaceFiles
from database.faces.frames import Frames
from database.installation import FILE, adopt, belongs_to, home_id
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
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
    cipher = EnvelopeCipher.of(Settings(_env_file=None, home=tmp_path))
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
