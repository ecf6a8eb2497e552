"""A home is backed up, destroyed and brought back, with all that can be read of it."""

import base64
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import tarfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from cli.backup import placing
from cli.backup.contents import AREAS, LEFT_OUT, SECRETS, DatabaseKind
from cli.backup.databases import dump
from cli.backup.restrictions import complete_restore
from cli.backup.unpacking import opened
from cli.commands import backup as commands
from cli.commands.backup import restore_backup, write_backup
from cli.home import Home
from cli.output import CommandError, notes
from cli.startup import migrate
from contracts.faces.consent import NewConsent
from contracts.faces.subjects import NewSubject, SubjectChange
from contracts.keys import NewKey
from contracts.settings import Settings
from database.audit import COMMAND, Audit
from database.crypto.master_keys import KeyFile
from database.datasets import DatasetRows
from database.engine import open_engine, reading
from database.faces.privacy.erasures import Erasures
from database.faces.repositories import FaceRepositories
from database.jobs.files import JobFiles
from database.jobs.jobs import Jobs
from database.keys import Keys
from database.migrations import current
from database.tables import SubjectRecord
from models.datasets.store import DatasetStore
from models.store.store import Store
from tests.cli.backup.furnished import DATASET, Furnished, furnish, now, publish, tree
from tests.cli.running import ROOT, until
from tests.models.datasets.packing import photo, written
from tests.ports import free_port
from tests.postgresql import new_database
from tests.tables import make_tables


@pytest.fixture
def home(tmp_path: Path) -> Furnished:
    return furnish(tmp_path / "home", port=free_port())


# In the place of pg_dump: says where it was told to go, and writes that.
PG_DUMP = """#!/bin/sh
for one in "$@"; do case "$one" in --file=*) out="${one#--file=}";; esac; done
{ echo "$@"; env | grep ^PG | sort; } > "$out"
"""


def kept(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.split("/")[0] in AREAS}


def test_what_was_destroyed_is_read_again(home: Furnished, out: Path) -> None:
    settings, before, jobs = home.settings, tree(home.settings.home), home.jobs()
    write_backup(settings, out, secrets=False)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    shutil.rmtree(settings.home)
    restore_backup(settings, out, force=False)
    assert tree(settings.home) == kept(before)
    assert home.jobs() == jobs
    store = Store(settings.store_home)
    assert store.versions("pets") == [1, 2]
    assert store.aliases("pets") == {"champion": 2}
    assert [store.verify("pets", one) for one in (1, 2)] == [[], []]
    assert publish(store) == 3, "the highest number is remembered"
    assert DatasetStore.of(settings).load(DATASET).classes == ("a", "b")
    assert not (settings.home / ".restore").exists()


def test_it_can_be_read_by_what_every_system_has(
    home: Furnished, out: Path, tmp_path: Path
) -> None:
    write_backup(home.settings, out, secrets=False)
    with tarfile.open(out) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    lines = (tmp_path / "there" / "digests.txt").read_text().splitlines()
    assert len(lines) == len([p for p in (tmp_path / "there").rglob("*") if p.is_file()]) - 1
    assert lines[0].endswith("  backup.json")


def test_keys_are_in_it_only_if_asked_for(
    home: Furnished, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_backup(home.settings, out, secrets=False)
    assert "without them the templates" in capfd.readouterr().err
    assert SECRETS.encode() not in b"".join(n.encode() for n in names(out))
    whole = out.with_name("whole.tar")
    write_backup(home.settings, whole, secrets=True)
    assert "Protect it like a password" in capfd.readouterr().err
    shutil.rmtree(home.settings.home)
    restore_backup(home.settings, whole, force=False)
    keys = home.settings.home / "secrets" / "faces.keys"
    assert (keys.read_bytes(), stat.S_IMODE(keys.stat().st_mode)) == (b"key", 0o600)
    assert stat.S_IMODE(keys.parent.stat().st_mode) == 0o700


def test_secrets_without_the_keys_of_the_setting_are_not_called_complete(
    tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    key = f"kept-elsewhere:{base64.b64encode(bytes(32)).decode()}"
    settings = Settings(home=tmp_path / "home")
    set_ = Settings(home=settings.home, faces_keys=SecretStr(key))
    add_person(set_, "Ada")
    write_backup(set_, out.with_name("plain.tar"), secrets=False)
    assert "in OPSIN_FACES_KEYS are not in it" in " ".join(capfd.readouterr().err.split())
    # Also where the command does not have the service's setting, and with the file of other keys.
    for number, ours in enumerate((set_, settings, set_)):
        archive = out.with_name(f"{number}.tar")
        with pytest.raises(CommandError, match="does not hold the keys kept-elsewhere"):
            write_backup(ours, archive, secrets=True)
        with opened(archive) as (header, _, _):
            assert header.secrets == settings.face_keys_file.exists()
        KeyFile(settings.face_keys_file).create()
        there = Settings(home=tmp_path / f"restored{number}", faces_keys=ours.faces_keys)
        capfd.readouterr()
        restore_backup(there, archive, force=False)
        missing = "needs keys that are not here: kept-elsewhere" in capfd.readouterr().err
        assert missing == (ours.faces_keys is None)


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_every_folder_of_the_settings_is_kept_or_left_out_on_purpose() -> None:
    settings = Settings(home=Path("/h"))
    properties = [name for name in dir(Settings) if name.endswith("_home")]
    folders = {getattr(settings, name).relative_to("/h").parts[0] for name in properties}
    assert folders
    assert folders <= {*AREAS, *LEFT_OUT, SECRETS}


def test_a_home_that_holds_something_is_not_touched(home: Furnished, out: Path) -> None:
    write_backup(home.settings, out, secrets=False)
    before = tree(home.settings.home)
    with pytest.raises(CommandError, match="--force"):
        restore_backup(home.settings, out, force=False)
    assert tree(home.settings.home) == before


def test_by_force_what_was_there_is_moved_aside(home: Furnished, out: Path) -> None:
    settings = home.settings
    write_backup(settings, out, secrets=False)
    jobs = home.jobs()
    # More happens: rows that are still in the journal, versions, files of weights.
    engine = open_engine(settings.database)
    late = Jobs(engine, now).create("filters", {}, limit=9).job.id
    publish(Store(settings.store_home), "newer")
    restore_backup(settings, out, force=True)
    engine.dispose()
    assert home.jobs() == jobs
    with closing(sqlite3.connect(settings.home / "opsin.db")) as database:
        assert database.execute("SELECT 1 FROM jobs WHERE id = ?", (late,)).fetchone() is None
    assert Store(settings.store_home).models() == ["pets"]
    assert (settings.home / "weights" / "a.npz").read_bytes() == b"fetched"
    assert (settings.home / "secrets" / "faces.keys").read_bytes() == b"key"
    (aside,) = settings.home.glob("replaced-*")
    assert Store(aside / "store").models() == ["newer", "pets"]
    with closing(sqlite3.connect(aside / "opsin.db")) as database:
        assert database.execute("SELECT 1 FROM jobs WHERE id = ?", (late,)).fetchone() == (1,)


def test_a_running_home_is_whole_in_its_backup(home: Furnished, out: Path) -> None:
    settings, stopping = home.settings, Event()
    store, engine = Store(settings.store_home), open_engine(settings.database)
    jobs, library, rows = Jobs(engine, now), DatasetStore.of(settings), DatasetRows(engine, now)
    more = written(out.parent / "more", {"a/1.png": photo(1), "b/2.png": photo(2)})
    done = [0]

    def work() -> None:
        while not stopping.is_set():
            version = publish(store)
            store.promote("pets", version)
            store.delete("pets", version - 1)
            jobs.create("filters", {"n": version}, limit=10_000)
            listing = library.create("more", more)
            rows.put(listing)
            rows.hide(listing.info.id)
            library.delete(listing.info.id)
            rows.delete(listing.info.id)
            done[0] += 1

    thread = Thread(target=work)
    thread.start()
    try:
        for number in range(3):
            at = done[0]
            until(lambda before=at: done[0] > before)  # type: ignore[misc]
            write_backup(settings, out.with_name(f"{number}.tar"), secrets=False)
    finally:
        stopping.set()
        thread.join()
        engine.dispose()
    assert done[0] > 3
    for number in range(3):
        there = Settings(home=out.parent / f"home-{number}", port=settings.port)
        restore_backup(there, out.with_name(f"{number}.tar"), force=False)
        copy = Store(there.store_home)
        (champion,) = copy.aliases("pets").values()
        assert champion in copy.versions("pets")
        assert [copy.verify("pets", one) for one in copy.versions("pets")] == [[]] * len(
            copy.versions("pets")
        )
        write_backup(there, out.with_name(f"{number}-again.tar"), secrets=False)
        for dataset_id in DatasetStore.of(there).ids():
            assert all(
                one.path.is_file() for one in DatasetStore.of(there).load(dataset_id).examples
            )


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("moment", [1, 2, 4, 7])
def test_killed_as_it_moves_things_in_it_is_finished_later(
    home: Furnished, out: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, before, jobs = home.settings, tree(home.settings.home), home.jobs()
    write_backup(settings, out, secrets=False)
    publish(Store(settings.store_home), "newer")
    real, count = Path.rename, [0]

    def rename(self: Path, target: Path) -> Path:
        if ".restore" in f"{self}{target}" and self.suffix != ".json":
            count[0] += 1
            if count[0] == moment:
                raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Killed):
        restore_backup(settings, out, force=True)
    monkeypatch.undo()
    assert placing.is_interrupted(settings.home)
    with pytest.raises(CommandError, match="interrupted"):
        placing.require_whole(settings.home)
    with pytest.raises(CommandError, match="interrupted"):
        write_backup(settings, out.with_name("half.tar"), secrets=False)
    Home(settings.home).prepare()
    if moment % 2:
        placing.finish(settings.home)
        complete_restore(settings, notes())  # as `opsin up` does
    else:
        restore_backup(settings, out, force=False)  # as is advised
    placing.require_whole(settings.home)
    assert kept(tree(settings.home)) == kept(before)
    assert home.jobs() == jobs
    (aside,) = settings.home.glob("replaced-*")
    assert "newer" in Store(aside / "store").models()


def test_nothing_is_restored_to_a_home_that_runs(home: Furnished, out: Path) -> None:
    write_backup(home.settings, out, secrets=False)
    empty = Settings(home=out.parent / "other", port=home.settings.port)
    running = Home(empty.home)
    running.prepare()
    with running.locked(), pytest.raises(CommandError, match="already running"):
        restore_backup(empty, out, force=True)
    assert Store(empty.store_home).models() == []


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_database_that_another_home_uses_is_not_replaced(
    request: pytest.FixtureRequest, tmp_path: Path, out: Path, database: str
) -> None:
    url = f"sqlite:///{tmp_path / 'apart.db'}"
    if database == "postgresql":
        url = new_database(request.getfixturevalue("postgresql"), "used")
    theirs = Settings(_env_file=None, home=tmp_path / "home", port=free_port(), database_url=url)
    add_person(theirs, "Before")
    write_backup(theirs, out, secrets=False)
    engine = open_engine(url)  # as a running service has it
    FaceRepositories.of(theirs, engine, now).subjects.create(NewSubject(name="After"))
    ours = theirs.model_copy(update={"home": tmp_path / "other"})
    with pytest.raises(CommandError, match="is connected to the database"):
        restore_backup(ours, out, force=True)
    assert people(theirs) == {"Before", "After"}
    engine.dispose()
    restore_backup(ours, out, force=True)
    assert people(ours) == {"Before"}


def test_a_file_that_is_there_is_not_overwritten(home: Furnished, out: Path) -> None:
    out.write_text("mine")
    with pytest.raises(CommandError, match="exists already"):
        write_backup(home.settings, out, secrets=False)
    assert out.read_text() == "mine"


def test_no_backup_is_made_of_an_empty_home(tmp_path: Path, out: Path) -> None:
    """Its database would name files that are not in the backup."""
    settings = Settings(
        _env_file=None, home=tmp_path / "home", database_url=f"sqlite:///{tmp_path / 'apart.db'}"
    )
    add_person(settings, "Ada")
    Home(tmp_path / "empty").prepare()
    with pytest.raises(CommandError, match="holds enrolled people"):
        write_backup(settings.model_copy(update={"home": tmp_path / "empty"}), out, secrets=False)
    assert not out.exists()


def test_no_backup_lacks_the_database_without_a_word(
    tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where a timer does not have the service's OPSIN_DATABASE_URL, or the disk is away."""
    apart = f"sqlite:///{tmp_path / 'apart.db'}"
    home, empty = tmp_path / "home", Home(tmp_path / "empty")
    migrate(Settings(home=home, database_url=apart), is_start=True)
    with pytest.raises(CommandError, match=r"OPSIN_DATABASE_URL.*belongs to another one"):
        write_backup(Settings(home=home), out, secrets=False)
    empty.prepare()
    with pytest.raises(CommandError, match=r"nothing in .*empty"):
        write_backup(Settings(home=empty.root), out, secrets=False)
    assert not out.exists()

    publish(Store(empty.root / "store"))  # copied there, and never served
    write_backup(Settings(home=empty.root), out, secrets=False)
    assert "no database in the backup" in capfd.readouterr().err
    restore_backup(Settings(home=tmp_path / "new"), out, force=False)
    assert "no database in the backup" in capfd.readouterr().err
    used = Settings(home=tmp_path / "used")
    migrate(used, is_start=True)
    revision = current(used.database)
    with pytest.raises(CommandError, match="The backup holds no database"):
        restore_backup(used, out, force=True)
    assert current(used.database) == revision


@pytest.mark.parametrize("is_named", [True, False])
def test_a_restore_says_that_the_database_of_the_home_is_elsewhere(
    tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str], is_named: bool
) -> None:
    apart = f"sqlite:///{tmp_path / 'apart.db'}"
    theirs = Settings(home=tmp_path / "home", database_url=apart)
    migrate(theirs, is_start=True)
    publish(Store(theirs.store_home))
    write_backup(theirs, out, secrets=False)
    capfd.readouterr()
    ours = theirs if is_named else Settings(home=theirs.home)
    restore_backup(ours, out, force=True)
    said = " ".join(capfd.readouterr().err.split())
    assert ("elsewhere, set OPSIN_DATABASE_URL" in said) != is_named


def test_a_folder_that_is_not_there_is_named_before_any_work(home: Furnished, out: Path) -> None:
    target = out.parent / "none" / "x.tar"
    with pytest.raises(CommandError, match=r"there is no folder .*none"):
        write_backup(home.settings, target, secrets=True)
    assert not target.parent.exists()


def test_a_full_disk_leaves_nothing(home: Furnished, out: Path) -> None:
    (home.settings.home / "trainings" / "large").write_bytes(bytes(1_000_000))
    before, limits = tree(home.settings.home), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        with pytest.raises(CommandError, match="Cannot write"):
            write_backup(home.settings, out, secrets=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(out.parent.iterdir()) == [home.settings.home]
    assert tree(home.settings.home) == before
    for area in ("jobs", "store", "datasets"):
        assert {p.name for p in (home.settings.home / area / ".staging").iterdir()} == {".lock"}


def test_what_goes_as_a_job_ends_meanwhile_is_in_it(
    home: Furnished, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, other = JobFiles.of(home.settings), "job_other"
    work = files.work(home.waiting)
    (work / "checkpoint").write_bytes(b"earlier")
    files.store_inputs(other, {"0": b"photo"})

    def ended(settings: Settings, into: Path) -> DatabaseKind | None:
        kind = dump(settings, into)
        files.end_work(home.waiting)
        files.store_inputs(other, {"0": b"later"})
        return kind

    monkeypatch.setattr("cli.backup.snapshot.dump", ended)
    write_backup(home.settings, out, secrets=False)
    shutil.rmtree(home.settings.home)
    restore_backup(home.settings, out, force=False)
    assert tree(work) == {"0": b"photo", "checkpoint": b"earlier"}
    assert tree(files.work(other)) == {"0": b"later"}


def test_what_is_made_anew_is_not_in_it(home: Furnished, out: Path) -> None:
    for folder in ("trainings/unfinished/abc", f"jobs/{home.waiting}/work"):
        for name in ("features/train/0.npy", "checkpoint.npz"):
            path = home.settings.home / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    write_backup(home.settings, out, secrets=False)
    found = names(out)
    assert "trainings/unfinished/abc/checkpoint.npz" in found
    assert f"jobs/{home.waiting}/work/checkpoint.npz" in found
    assert not [name for name in found if "features" in name]


def test_a_log_that_grows_is_taken_as_long_as_it_was(
    home: Furnished, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = home.settings.home / "tensorboard" / "job_1" / "events"

    def grown(folder: Path, size: int) -> None:
        with log.open("ab") as file:
            file.write(b" and more")

    monkeypatch.setattr("cli.commands.backup._require_room", grown)
    write_backup(home.settings, out, secrets=False)
    monkeypatch.undo()
    shutil.rmtree(home.settings.home)
    restore_backup(home.settings, out, force=False)
    assert log.read_bytes() == b"log"


def test_what_it_takes_in_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.cli.backup.peaks", str(tmp_path))
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    _, few, many = map(int, ran.stdout.split())
    # tarfile alone would remember a kilobyte of each.
    assert many < few + 500_000


def test_postgresqls_tools_go_where_the_service_goes_and_as_safely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "bin" / "pg_dump"
    tool.parent.mkdir()
    tool.write_text(PG_DUMP)
    tool.chmod(0o700)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    options = "sslmode=verify-full&host=a:1&host=b:2&options=-c%20work_mem%3D9MB&keepalives_idle=3"
    url = f"postgresql+psycopg://me:s%40cret@/opsin?{options}"
    settings = Settings(_env_file=None, home=tmp_path, database_url=url)
    (tmp_path / "into").mkdir()
    monkeypatch.setattr("cli.backup.databases.selection", lambda _: [])  # there is no server
    assert dump(settings, tmp_path / "into") == "postgresql"
    said = (tmp_path / "into" / "opsin.pgdump").read_text().splitlines()
    assert "--dbname=" in said[0]
    # A host that vanishes is noticed, by the address's own numbers if it has any.
    assert {"keepalives=1", "keepalives_idle=3", "keepalives_count=3"} <= set(said[0].split())
    assert "s@cret" not in said[0], "a command line is for everybody to read"
    assert set(said[1:]) >= {
        "PGHOST=a,b",
        "PGPORT=1,2",
        "PGUSER=me",
        "PGPASSWORD=s@cret",
        "PGSSLMODE=verify-full",
        "PGOPTIONS=-c work_mem=9MB",
    }


def add_person(settings: Settings, name: str) -> str:
    if current(settings.database) is None:
        make_tables(settings.database)
    engine = open_engine(settings.database)
    faces = FaceRepositories.of(settings, engine, now)
    subject_id = str(faces.subjects.create(NewSubject(name=name))["id"])
    engine.dispose()
    return subject_id


def people(settings: Settings) -> set[str]:
    engine = open_engine(settings.database)
    with reading(engine) as session:
        names = set(session.scalars(select(SubjectRecord.name)))
    engine.dispose()
    return names


@pytest.mark.parametrize("has_list", [True, False])
def test_an_erased_person_does_not_come_back(tmp_path: Path, out: Path, has_list: bool) -> None:
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    gone, stays = add_person(settings, "Forget Me"), add_person(settings, "Ada")
    write_backup(settings, out, secrets=False)
    engine = open_engine(settings.database)
    FaceRepositories.of(settings, engine, now).subjects.erase(gone)
    engine.dispose()
    if not has_list:  # the erasure was recorded by an earlier release
        (settings.home / "erased-subjects").unlink()
    restore_backup(settings, out, force=True)
    assert people(settings) == {"Ada"}
    engine = open_engine(settings.database)
    assert Erasures(engine, now).pending(timedelta()) == [gone], "the service then ends it"
    assert Erasures(engine, now).existing_among([gone, stays]) == [stays]
    engine.dispose()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_what_was_taken_back_since_a_backup_stays_so(
    request: pytest.FixtureRequest, tmp_path: Path, out: Path, database: str
) -> None:
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    if database == "postgresql":
        url = new_database(request.getfixturevalue("postgresql"), "taken")
        settings = settings.model_copy(update={"database_url": url})
    ada, bea = add_person(settings, "Ada"), add_person(settings, "Bea")
    engine = open_engine(settings.database)
    faces, keys = FaceRepositories.of(settings, engine, now), Keys(engine, now)
    made = [keys.create(NewKey(name=name, scopes=["infer"]), actor=COMMAND) for name in "abc"]
    consent = NewConsent(version="1", text_digest="sha256:" + "0" * 64, by="desk")
    for subject in (ada, bea):
        faces.subjects.change(subject, SubjectChange(consent=consent))
        faces.devices.add(subject, "phone", {"kty": "EC"})
    write_backup(settings, out, secrets=False)
    keys.revoke(made[0].id, actor=COMMAND)
    keys.rotate(made[1].id, timedelta(0), actor=COMMAND)
    faces.devices.remove(ada, "phone")
    faces.subjects.change(ada, SubjectChange(consent=None, face_disabled=True))
    engine.dispose()
    restore_backup(settings, out, force=True)
    assert not (settings.home / placing.NOTED).exists()
    engine = open_engine(settings.database)
    faces, keys = FaceRepositories.of(settings, engine, now), Keys(engine, now)
    stand = faces.standings
    assert [key.id for key in keys.list().items if key.revoked_at is not None] == [made[0].id]
    expired = [key.id for key in keys.list().items if key.expires_at is not None]
    assert expired == [made[1].id]
    assert (faces.devices.list(ada), len(faces.devices.list(bea))) == ([], 1)
    assert (stand.get(ada).consent, stand.get(ada).by_operator) == (None, True)
    assert stand.get(bea).consent is not None
    assert not stand.get(bea).disabled
    actions = {line.action for line in Audit(engine, now).list().items}
    assert {"key_revoked", "device_removed", "consent_withdrawn", "face_disabled"} <= actions
    engine.dispose()


def test_a_restore_that_was_killed_before_its_end_is_completed(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    gone = add_person(settings, "Forget Me")
    write_backup(settings, out, secrets=False)
    engine = open_engine(settings.database)
    FaceRepositories.of(settings, engine, now).subjects.erase(gone)
    engine.dispose()
    with monkeypatch.context() as killed:
        killed.setattr(commands, "complete_restore", lambda *_: None)
        restore_backup(settings, out, force=True)
    assert people(settings) == {"Forget Me"}
    with pytest.raises(CommandError, match="interrupted"):
        placing.require_whole(settings.home)
    complete_restore(settings, notes())
    placing.require_whole(settings.home)
    assert people(settings) == set()


def test_a_refused_restore_leaves_postgresql_as_it_was(
    postgresql: str, tmp_path: Path, out: Path
) -> None:
    url = new_database(postgresql, "restored")
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port(), database_url=url)
    add_person(settings, "Before")
    Store(settings.store_home)
    publish(Store(settings.store_home))
    write_backup(settings, out, secrets=False)
    add_person(settings, "After")
    elsewhere = settings.store_home.rename(tmp_path / "elsewhere")
    settings.store_home.symlink_to(elsewhere)
    with pytest.raises(CommandError, match="symbolic link"):
        restore_backup(settings, out, force=True)
    assert people(settings) == {"Before", "After"}
    settings.store_home.unlink()
    restore_backup(settings, out, force=True)
    assert people(settings) == {"Before"}
    (kept,) = settings.home.glob("replaced-*")
    assert (kept / "opsin.pgdump").stat().st_size > 0
    placed = subprocess.run(
        ["pg_restore", "--list", kept / "opsin.pgdump"], capture_output=True, check=True
    )
    assert b"subjects" in placed.stdout


def test_a_backup_without_the_folder_of_a_dataset_is_not_called_complete(
    home: Furnished, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = (home.settings.datasets_home / DATASET).rename(out.parent / "aside")
    with pytest.raises(CommandError, match=f"not complete: .* no folder of {DATASET}"):
        write_backup(home.settings, out, secrets=False)
    assert out.exists()
    assert "✓" not in capsys.readouterr().err
    out.unlink()
    engine = open_engine(home.settings.database)
    DatasetRows(engine, now).hide(DATASET)  # it is being deleted
    write_backup(home.settings, out, secrets=False)
    assert "✓" in capsys.readouterr().err
    engine.dispose()
    aside.rename(home.settings.datasets_home / DATASET)
