"""What is moved aside stays, whatever is restored after, and whoever is killed as it is."""

import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.backup import placing
from cli.backup.steps import RestoreStep
from cli.commands.backup import restore_backup, write_backup
from cli.home import Home
from cli.output import CommandError
from contracts.settings import Settings
from tests.cli.backup.furnished import Furnished, furnish
from tests.cli.running import Starter, until
from tests.ports import free_port

OTHER = Path("/dev/shm")  # another file system, where there is one


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "backup.tar"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the homes."""
    if not OTHER.is_dir() or OTHER.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is but one file system here")
    folder = OTHER / f"opsin-test-{free_port()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def home(tmp_path: Path) -> Furnished:
    return furnish(tmp_path / "home", port=free_port())


def write(database: Path, note: str) -> sqlite3.Connection:
    """A row that is in the journal alone; the connection is to be left open."""
    live = sqlite3.connect(database, isolation_level=None)
    live.execute("PRAGMA journal_mode = WAL")
    live.execute("PRAGMA wal_autocheckpoint = 0")
    live.execute("CREATE TABLE IF NOT EXISTS notes (note TEXT)")
    live.execute("INSERT INTO notes VALUES (?)", (note,))
    assert database.with_name(database.name + "-wal").stat().st_size
    return live


def notes(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as one:
        if not one.execute("SELECT 1 FROM sqlite_master WHERE name = 'notes'").fetchone():
            return []
        return [note for (note,) in one.execute("SELECT note FROM notes")]


def test_each_restore_keeps_the_database_that_was_there(
    tmp_path: Path, elsewhere: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    database = elsewhere / "opsin.db"
    settings = furnish(
        tmp_path / "home", port=free_port(), database_url=f"sqlite:///{database}"
    ).settings
    write_backup(settings, out, secrets=False)
    for note in ("first", "second"):
        write(database, note).close()
        restore_backup(settings, out, force=True)
        assert notes(database) == []
        assert database.stat().st_mode & 0o077 == 0
    aside = sorted(elsewhere.glob("opsin.db.replaced-*"))
    assert sorted(notes(one / "opsin.db") for one in aside) == [["first"], ["second"]]
    told = capfd.readouterr().err.replace("\n", "")
    assert all(one.name in told for one in aside)
    assert {path.name for path in elsewhere.iterdir() if path.is_file()} == {"opsin.db"}


def test_a_journal_is_never_left_beside_another_database(home: Furnished, out: Path) -> None:
    settings = home.settings
    write_backup(settings, out, secrets=False)
    database = settings.home / "opsin.db"
    with closing(write(database, "late")):
        restore_backup(settings, out, force=True)
    assert notes(database) == []
    (aside,) = settings.home.glob("replaced-*")
    assert notes(aside / "opsin.db") == ["late"]


def test_a_database_behind_a_link_is_replaced_where_it_is(home: Furnished, out: Path) -> None:
    settings, real = home.settings, out.with_name("elsewhere")
    write_backup(settings, out, secrets=False)
    real.mkdir()
    for path in settings.home.glob("opsin.db*"):
        path.rename(real / path.name)
    link = settings.home / "opsin.db"
    link.symlink_to(real / "opsin.db")
    with closing(write(link.resolve(), "late")):
        restore_backup(settings, out, force=True)
    assert link.is_symlink()
    assert notes(real / "opsin.db") == []
    assert not list(real.glob("*-wal"))


def test_a_step_that_is_tried_again_overwrites_nothing(tmp_path: Path) -> None:
    new, here, old = tmp_path / "new", tmp_path / "here", tmp_path / "old" / "here"
    step = RestoreStep(str(new), str(here), str(old), until=str(new))
    new.write_text("restored")
    for before in ("a", "b"):
        new.write_text("restored")
        here.write_text(before)
        step.take()
    step.take()  # it is past
    assert here.read_text() == "restored"
    assert {one.read_text() for one in old.parent.iterdir()} == {"a", "b"}


def test_an_area_behind_a_link_is_refused_before_anything_moves(home: Furnished, out: Path) -> None:
    settings, real = home.settings, out.with_name("large")
    write_backup(settings, out, secrets=False)
    (settings.home / "faces").rename(real)
    (settings.home / "faces").symlink_to(real)
    jobs = home.jobs()
    with pytest.raises(CommandError, match="faces is a symbolic link"):
        restore_backup(settings, out, force=True)
    assert not (settings.home / ".restore").exists()
    assert (real / "f1").read_bytes() == b"sealed"
    assert home.jobs() == jobs


def test_an_area_on_a_disk_of_its_own_is_refused_before_anything_moves(
    home: Furnished, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_backup(home.settings, out, secrets=False)
    jobs, faces = home.jobs(), home.settings.home / "faces"
    monkeypatch.setattr("os.path.ismount", lambda path: path == faces)
    with pytest.raises(CommandError, match="faces is a file system of its own"):
        restore_backup(home.settings, out, force=True)
    assert not (home.settings.home / ".restore").exists()
    assert home.jobs() == jobs


def interrupted(home: Furnished, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the second step."""
    real = RestoreStep.take

    def take(self: RestoreStep) -> None:
        if self.place.endswith("datasets"):
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(RestoreStep, "take", take)
        with pytest.raises(KeyboardInterrupt):
            restore_backup(home.settings, out, force=True)
    assert placing.is_interrupted(home.settings.home)


def test_what_cannot_be_finished_is_told_and_can_be_mended(
    home: Furnished, out: Path, start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = home.settings
    write_backup(settings, out, secrets=False)
    jobs = home.jobs()
    interrupted(home, out, monkeypatch)
    in_the_way = settings.home / ".restore" / "old"
    in_the_way.rename(in_the_way.with_name("kept"))
    in_the_way.write_text("")
    up = start("-m", "cli", "up", OPSIN_HOME=settings.home, OPSIN_PORT=settings.port)
    assert up.wait() == 1
    assert "has begun and cannot be finished" in up.text
    assert "Traceback" not in up.text
    in_the_way.unlink()
    in_the_way.with_name("kept").rename(in_the_way)
    restore_backup(settings, out, force=False)
    assert home.jobs() == jobs


def test_another_backup_after_a_cut_restore_is_asked_for_as_ever(
    home: Furnished, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = out.with_name("first.tar")
    for one in (first, out):
        write_backup(home.settings, one, secrets=False)
    interrupted(home, out, monkeypatch)
    with pytest.raises(CommandError, match="--force"):
        restore_backup(home.settings, first, force=False)
    placing.require_whole(home.settings.home)


def test_what_a_killed_restore_unpacked_is_removed(home: Furnished, start: Starter) -> None:
    settings = home.settings
    (placing.unpack_folder(settings.home) / "half").write_bytes(b"x")
    with socket.socket() as taken:  # so it gets no further than that
        taken.bind(("127.0.0.1", settings.port))
        taken.listen()
        up = start("-m", "cli", "up", OPSIN_HOME=settings.home, OPSIN_PORT=settings.port)
        assert up.wait() == 1
    assert "interrupted restore are removed" in up.text
    assert not (settings.home / ".restore").exists()


@pytest.mark.parametrize("role", [("serve",), ("worker",), ("worker", "--jobs")])
def test_what_works_from_the_home_is_in_the_way(
    role: tuple[str, ...], tmp_path: Path, out: Path, home: Furnished, start: Starter
) -> None:
    write_backup(home.settings, out, secrets=False)
    # Redis does not answer there: it waits for it, and has the home all the while.
    redis = f"redis://127.0.0.1:{free_port()}/0"
    target = Settings(home=tmp_path / "other", port=free_port())
    run = start("-m", "cli", *role, OPSIN_HOME=target.home, OPSIN_REDIS_URL=redis,
                OPSIN_PORT=free_port())  # fmt: skip
    use = target.home / "run" / "use.lock"
    until(lambda: use.exists() or run.process.poll() is not None, 90)
    assert run.process.poll() is None, run.text
    with pytest.raises(CommandError, match="is in use by"):
        restore_backup(target, out, force=True)
    assert not (target.home / "store").exists()


def test_nothing_begins_to_work_as_it_is_restored(home: Furnished, start: Starter) -> None:
    one = Home(home.settings.home)
    with one.exclusive():
        run = start("-m", "cli", "worker", OPSIN_HOME=one.root,
                    OPSIN_REDIS_URL="redis://127.0.0.1:1/0")  # fmt: skip
        assert run.wait() == 1
    assert "A restore of" in run.text
    with one.shared(), one.shared():  # many may work
        pass
