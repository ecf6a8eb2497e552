"""One fault after another is brought about, and each is found, named, and told what helps."""

import os
import resource
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest
import redis

from cli import checks as looks
from cli.checks import Check
from cli.checks.environment import busy, gpu
from cli.checks.packages import packages, pins_of
from cli.startup import migrate
from contracts.faces.erased_ids import FILE
from contracts.faces.subjects import NewSubject
from contracts.inference.manifest import Provenance
from contracts.queue import redis_keys
from contracts.queue.heartbeat import WorkerBeat
from contracts.settings import RELEASE, Settings
from database.crypto.master_keys import KeyFile
from database.engine import open_engine
from database.faces.repositories import FaceRepositories
from database.migrations import newest
from models.store.staging import backup_copies
from models.store.store import Store
from tests.cli.backup.furnished import publish
from tests.cli.running import ROOT
from tests.models.drafts import DRAFT, write_files
from tests.ports import free_port
from tests.tables import make_tables
from tests.valkey import RealValkey


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return Settings(home=home, port=free_port(), models=("squeezenet",), weights_dir=None)


def found(checks: Iterator[Check], name: str) -> Check:
    (one,) = [check for check in checks if check.name == name]
    return one


def failing(check: Check, *words: str) -> None:
    assert check.state == "fail", check
    assert check.help, "it says what helps"
    for word in words:
        assert word in f"{check.detail} {check.help}", check


def test_missing_weights(settings: Settings) -> None:
    check = found(looks.store(settings, deep=False), "weights squeezenet")
    failing(check, "opsin weights pull squeezenet")
    two = settings.model_copy(update={"models": ("squeezenet", "efficientnet_lite0")})
    assert {check.state for check in looks.store(two, deep=False)} == {"fail"}
    publish(Store(settings.store_home), "squeezenet")
    one_works = found(looks.store(two, deep=False), "weights efficientnet_lite0")
    assert one_works.state == "warn"
    assert "opsin weights pull" in one_works.help
    assert found(looks.store(settings, deep=False), "weights squeezenet").state == "ok"


def test_face_keys_that_a_restore_has_not_brought(settings: Settings) -> None:
    assert list(looks.face_keys(settings)) == []
    make_tables(settings.database)
    assert list(looks.face_keys(settings)) == []
    engine = open_engine(settings.database)
    faces = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    faces.subjects.create(NewSubject(name="Ada"))
    assert found(looks.face_keys(settings), "face keys").state == "ok"
    needed = faces.cipher.key_id
    engine.dispose()
    settings.face_keys_file.unlink()
    failing(found(looks.face_keys(settings), "face keys"), needed, "--secrets")
    assert not settings.face_keys_file.exists()
    KeyFile(settings.face_keys_file).create()  # another key
    failing(found(looks.face_keys(settings), "face keys"), str(settings.face_keys_file))


@pytest.mark.parametrize("what", ["token key", "hash key"])
def test_keys_that_only_settings_of_faces_need(settings: Settings, what: str) -> None:
    make_tables(settings.database)
    engine = open_engine(settings.database)
    faces = FaceRepositories.of(settings, engine, lambda: datetime.now(UTC))
    if what == "token key":
        faces.token_keys.signing()
    else:
        faces.keyed_hash.hexdigest(b"phone")
    assert found(looks.face_keys(settings), "face keys").state == "ok"
    settings.face_keys_file.unlink()
    failing(found(looks.face_keys(settings), "face keys"), faces.cipher.key_id, "replace-lost-keys")
    engine.dispose()


def test_a_home_that_is_not_that_of_the_database(settings: Settings, tmp_path: Path) -> None:
    apart = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'apart.db'}"})
    migrate(apart)
    engine = open_engine(apart.database)
    FaceRepositories.of(apart, engine, lambda: datetime.now(UTC)).subjects.create(
        NewSubject(name="Ada")
    )
    engine.dispose()
    assert found(looks.service(apart), "database").state == "ok"
    empty = apart.model_copy(update={"home": tmp_path / "empty"})
    failing(found(looks.service(empty), "database"), "not that of this home", "OPSIN_HOME")
    for address in (None, f"sqlite:///{tmp_path / 'none.db'}"):
        unnamed = Settings(home=settings.home, database_url=address, port=free_port())
        failing(found(looks.service(unnamed), "database"), "there is none", "OPSIN_DATABASE_URL")


def test_a_busy_machine_on_which_jobs_come_last(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 16.0, 16.0))
    (check,) = busy(settings)
    assert check.state == "warn"
    assert "OPSIN_JOB_NICENESS=0" in check.help
    assert list(busy(settings.model_copy(update={"job_niceness": 0}))) == []
    monkeypatch.setattr(os, "getloadavg", lambda: (16.0, 2.0, 2.0))  # a moment is not a state
    assert list(busy(settings)) == []


def test_a_model_that_nobody_knows(settings: Settings) -> None:
    wrong = settings.model_copy(update={"models": ("resnet",)})
    failing(found(looks.store(wrong, deep=False), "models"), "resnet", "OPSIN_MODELS")


def test_keys_that_others_can_read(settings: Settings) -> None:
    keys = settings.home / "secrets" / "faces.keys"
    keys.parent.mkdir(mode=0o700)
    keys.write_text("key")
    keys.chmod(0o644)
    failing(found(looks.home(settings), "secrets"), "faces.keys", "chmod")
    keys.chmod(0o600)
    assert found(looks.home(settings), "secrets").state == "ok"


def test_a_home_that_others_can_read(settings: Settings) -> None:
    settings.home.chmod(0o755)
    check = found(looks.home(settings), "data home")
    assert (check.state, "chmod 700" in check.help) == ("warn", True)


@contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of root, where the tests have them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_folders_of_somebody_else() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        (home / "store").mkdir(parents=True)
        for path, mode in ((Path(folder), 0o755), (home, 0o777), (home / "store", 0o555)):
            path.chmod(mode)
        with nobody():
            checks = list(looks.home(Settings(home=home)))
        failing(found(iter(checks), "permissions"), "store", "chown")
        home.chmod(0o555)
        with nobody():
            checks = list(looks.home(Settings(home=home)))
        failing(found(iter(checks), "data home"), "OPSIN_HOME", "chown")
        home.chmod(0o755)


def test_a_disk_that_is_nearly_full(settings: Settings) -> None:
    full = settings.model_copy(update={"min_free_disk_bytes": 1 << 62})
    failing(found(looks.home(full), "disk"), "OPSIN_MIN_FREE_DISK_BYTES")


def test_a_restore_that_was_cut_short(settings: Settings) -> None:
    (settings.home / ".restore").mkdir()
    (settings.home / ".restore" / "steps.json").write_text("[]")
    failing(found(looks.home(settings), "restore"), "opsin restore")


def test_what_a_killed_restore_left(settings: Settings) -> None:
    (settings.home / ".restore" / "new").mkdir(parents=True)
    check = found(looks.home(settings), "restore")
    assert check.state == "warn"
    assert "opsin up" in str(check.help)


def test_a_copy_of_people_that_a_killed_backup_left(settings: Settings) -> None:
    with backup_copies(settings.jobs_home).folder():
        assert "erasures" not in [check.name for check in looks.home(settings)], "it runs"
    left = settings.jobs_home / ".staging" / "killed"
    left.mkdir()
    failing(found(looks.home(settings), "erasures"), "none ends", str(left), "opsin up")


def test_a_damaged_version(settings: Settings) -> None:
    store = Store(settings.store_home)
    publish(store)
    store.promote("pets", 1)
    assert found(looks.store(settings, deep=True), "store pets").state == "ok"
    labels = store.path("pets", 1) / "labels.json"
    content = labels.read_bytes()
    labels.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert found(looks.store(settings, deep=False), "store pets").state == "ok", "a quick look"
    failing(found(looks.store(settings, deep=True), "store pets"), "labels.json", "verify pets")
    labels.unlink()
    failing(found(looks.store(settings, deep=False), "store pets"), "missing", "verify pets")
    store.verify("pets", 1)
    states = [c.state for c in looks.store(settings, deep=False) if c.name == "store pets"]
    assert states == ["warn", "fail"], "in quarantine, and its alias stands on nothing"


def test_a_version_that_was_trained_on_an_erased_person(settings: Settings) -> None:
    subject, store = "sub_0123456789abcdefghij", Store(settings.store_home)
    with store.staging() as folder:
        write_files(folder)
        origin = Provenance(spec={"subjects": [subject]})
        store.publish("door", folder, DRAFT.model_copy(update={"provenance": origin}))
    assert found(looks.store(settings, deep=True), "store door").state == "ok"
    (settings.home / FILE).write_text(f"{subject}\n")
    check = found(looks.store(settings, deep=True), "store door")
    assert check.state == "warn"
    assert "erased" in check.detail
    assert "damaged" not in check.detail


def test_a_champion_that_is_gone(settings: Settings) -> None:
    store = Store(settings.store_home)
    publish(store), publish(store)
    store.promote("pets", 2)
    (store.path("pets", 2) / "labels.json").write_text("other")
    store.verify("pets", 2)
    checks = [one for one in looks.store(settings, deep=False) if one.name == "store pets"]
    assert [one.state for one in checks] == ["warn", "fail"]
    failing(checks[1], "champion points to 2", "opsin models promote pets")


def test_libraries_off_their_pins(tmp_path: Path) -> None:
    (tmp_path / "api.txt").write_text("rich==0.0.1 \\\n    --hash=sha256:00\n")
    (tmp_path / "worker.txt").write_text('nothing==1 ; sys_platform == "none" \\\ntyper==0.0.2\n')
    check = found(packages(tmp_path), "pins")
    assert check.state == "warn"
    assert "rich" in check.detail
    assert "is not 0.0.1" in check.detail
    assert "make setup" in check.help
    assert pins_of(tmp_path / "worker.txt") == {"typer": "0.0.2"}


def test_a_gpu_that_was_promised(tmp_path: Path) -> None:
    failing(gpu({"PATH": "", "NVIDIA_VISIBLE_DEVICES": "all"}), "--gpus all")
    failing(gpu({"PATH": "", "CUDA_VISIBLE_DEVICES": "0"}), "nvidia-smi")
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\nexit 9\n")
    broken.chmod(0o755)
    failing(gpu({"PATH": str(tmp_path)}), "driver does not answer", "nvidia-smi")
    broken.write_text("#!/bin/sh\necho 'H100, 570'\n")
    assert gpu({"PATH": str(tmp_path)}).detail == "H100, 570"


def test_a_redis_that_evicts(settings: Settings, valkey: RealValkey) -> None:
    there = settings.model_copy(update={"redis_url": valkey.url})
    with redis.Redis.from_url(valkey.url) as client:
        before = client.config_get("maxmemory-policy")["maxmemory-policy"]
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            failing(found(looks.service(there), "redis"), "allkeys-lru", "CONFIG SET")
        finally:
            client.config_set("maxmemory-policy", before)


def test_a_redis_that_is_not_there_or_says_nothing(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        there = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}"})
        failing(found(looks.service(there), "redis"), "does not answer", "OPSIN_REDIS_URL")
    failing(found(looks.service(there), "redis"), "does not answer", "OPSIN_REDIS_URL")


def old_redis(listener: socket.socket) -> None:
    """A server of 2015, as far as the doctor asks."""
    info = "redis_version:3.0.6\r\nmaxmemory_policy:noeviction\r\n"
    answers = {b"PING": b"+PONG\r\n", b"INFO": f"${len(info)}\r\n{info}\r\n".encode()}
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as sent:
            while head := sent.readline():
                words = [sent.read(int(sent.readline()[1:]) + 2)[:-2] for _ in range(int(head[1:]))]
                connection.sendall(answers.get(words[0].upper(), b"-ERR unknown command\r\n"))


def test_a_redis_that_is_too_old(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=old_redis, args=(listener,), daemon=True)
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}?protocol=2"
        there = settings.model_copy(update={"redis_url": url})
        failing(found(looks.service(there), "redis"), "3.0.6", "too old", "Valkey")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


def test_workers_of_another_release(settings: Settings, valkey: RealValkey) -> None:
    there = settings.model_copy(update={"redis_url": valkey.url})
    beat = WorkerBeat(id="w1", host="h", pid=1, release=RELEASE, started_at=0, beat_at=0)
    with redis.Redis.from_url(valkey.url) as client:
        client.sadd(redis_keys.WORKERS, "w1", "w2")
        client.set(redis_keys.heartbeat_key("w1"), beat.model_dump_json())
        assert found(looks.service(there), "versions").state == "ok"
        # One of a release whose beat has another form, which the API could not read.
        client.set(redis_keys.heartbeat_key("w2"), '{"release": "9.9.9", "other": 1}')
        failing(found(looks.service(there), "versions"), "9.9.9", RELEASE, "Restart")


def test_a_database_that_is_not_migrated(settings: Settings) -> None:
    assert found(looks.service(settings), "database").state == "ok", "none yet"
    make_tables(settings.database)
    assert newest() in found(looks.service(settings), "database").detail
    file = settings.home / "opsin.db"
    for revision, said in (("0001", "not migrated"), ("9999", "later release")):
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        failing(found(looks.service(settings), "database"), said, revision)
    for end in ("", "-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)
    file.write_bytes(b"no database at all" * 100)
    failing(found(looks.service(settings), "database"), "damaged", "opsin restore")


def test_a_database_on_a_full_disk(settings: Settings) -> None:
    make_tables(settings.database)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPSIN_")}
    environment |= {"OPSIN_HOME": str(settings.home), "OPSIN_PORT": str(settings.port)}
    for words, said in (
        (("keys", "list"), "The disk of the database is full. Free space on it."),
        (("doctor",), "sqlite: the disk of the database is full"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "cli", *words],
            cwd=ROOT,
            env=environment
            | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            # No file may grow to the 32 KB that SQLite's readers and writers share.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14)),
        )
        assert done.returncode == 1
        assert said in done.stdout + done.stderr
        assert "does not answer" not in done.stdout + done.stderr


def test_a_port_that_is_taken(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", settings.port)):
        failing(found(looks.service(settings), "port"), str(settings.port), "OPSIN_PORT", "ss -l")


def test_an_open_address_without_a_key(settings: Settings) -> None:
    open_ = settings.model_copy(update={"host": "0.0.0.0"})
    failing(found(looks.service(open_), "key"), "OPSIN_API_KEY")
