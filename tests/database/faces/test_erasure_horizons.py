"""An erasure ends only when nothing makes PostgreSQL copy the deleted rows into the new tables."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from cli.checks.service import _erasures
from contracts.settings import Settings
from database.engine import open_engine, writing
from database.faces.repositories import FaceRepositories
from database.migrations import upgrade
from database.secure_delete import purge_deleted_rows, rewrite_for_erasures, tables_of_others
from tests.database.conftest import Clock
from tests.database.faces.test_secure_delete import TRACES, erase_zenobia, heap
from tests.postgresql import (
    NoPostgresqlError,
    connected,
    new_database,
    running_postgresql,
    running_standby,
)

OPTIONS = ("-c", "wal_level=logical", "-c", "max_prepared_transactions=5", "-c", "autovacuum=off")
NUMBERS = itertools.count()
Holder = Callable[[str], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    try:
        with running_postgresql(*OPTIONS) as url:
            yield url
    except NoPostgresqlError as error:
        pytest.skip(str(error))


@pytest.fixture
def engine(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr("database.secure_delete._OLDER_SECONDS", 0.2)
    url = new_database(server, f"erasures_{next(NUMBERS)}")
    upgrade(url)
    engine = open_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def faces(engine: Engine, clock: Clock, tmp_path: Path) -> FaceRepositories:
    return FaceRepositories.of(Settings(_env_file=None, home=tmp_path), engine, clock)


def is_finished(faces: FaceRepositories, engine: Engine) -> bool:
    """Whether all erasures count as rewritten, after another attempt without a rest before."""
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM face_settings WHERE key = 'table_rewrite'"))
    rewrite_for_erasures(engine)
    return not faces.erasures.not_rewritten_among(faces.erasures.pending(timedelta(0)))


def traces_in(engine: Engine, data_key: bytes) -> list[bytes]:
    files = heap(engine)
    return [one for one in (data_key, *map(str.encode, TRACES)) if one in files]


@contextmanager
def writer(url: str) -> Iterator[None]:
    """A transaction that has written something and waits, such as for the disk."""
    with connected(url) as connection, connection.transaction():
        connection.execute("SELECT pg_current_xact_id()")
        yield


@contextmanager
def writer_in_another_database(url: str) -> Iterator[None]:
    with writer(url.rpartition("/")[0] + "/postgres"):
        yield


@contextmanager
def prepared_transaction(url: str) -> Iterator[None]:
    with connected(url) as connection:
        connection.execute("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'one'")
        try:
            yield
        finally:
            connection.execute("ROLLBACK PREPARED 'one'")


@contextmanager
def reader(url: str) -> Iterator[None]:
    with connected(url) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class")
        yield


@contextmanager
def query_on_a_standby(url: str) -> Iterator[None]:
    with running_standby(url, *OPTIONS) as standby, reader(standby):
        wait_for(url, "SELECT 1 FROM pg_stat_replication WHERE backend_xmin IS NOT NULL")
        yield
    wait_for(url, "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_replication)")


@contextmanager
def slot_of_an_absent_standby(url: str) -> Iterator[None]:
    with running_standby(url, *OPTIONS, slot="absent") as standby, reader(standby):
        wait_for(url, "SELECT 1 FROM pg_replication_slots WHERE xmin IS NOT NULL")
    wait_for(url, "SELECT 1 FROM pg_replication_slots WHERE NOT active")
    with connected(url) as connection:
        try:
            yield
        finally:
            connection.execute("SELECT pg_drop_replication_slot('absent')")


@contextmanager
def reader_in_another_database(url: str) -> Iterator[None]:
    with reader(url.rpartition("/")[0] + "/postgres"):
        yield


@contextmanager
def logical_slot(url: str) -> Iterator[None]:
    with connected(url) as connection:
        connection.execute("SELECT pg_create_logical_replication_slot('feed', 'pgoutput')")
        try:
            yield
        finally:
            connection.execute("SELECT pg_drop_replication_slot('feed')")


@contextmanager
def vacuum_of_another_table(url: str) -> Iterator[None]:
    """As autovacuum works for minutes on a table with many deleted rows."""
    with connected(url) as connection, connected(url) as other:
        connection.execute("CREATE TABLE large AS SELECT generate_series(1, 200000) AS number")
        connection.execute("DELETE FROM large")
        other.execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")

        def vacuum() -> None:
            with suppress(Exception):  # it is cancelled
                other.execute("VACUUM large")

        thread = threading.Thread(target=vacuum)
        thread.start()
        try:
            wait_for(url, "SELECT 1 FROM pg_stat_progress_vacuum")
            connection.execute("SELECT pg_current_xact_id()")  # after the vacuum's snapshot
            yield
            assert thread.is_alive()
        finally:
            connection.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_progress_vacuum")
            thread.join()
            connection.execute("DROP TABLE large")


def wait_for(url: str, query: str) -> None:
    deadline = time.monotonic() + 60
    with connected(url) as connection:
        while connection.execute(query.encode()).fetchone() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def address(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@pytest.mark.parametrize(
    "holder",
    [
        reader,
        writer,
        writer_in_another_database,
        prepared_transaction,
        query_on_a_standby,
        slot_of_an_absent_standby,
    ],
)
def test_what_may_see_the_rows_keeps_an_erasure_unfinished(
    faces: FaceRepositories, engine: Engine, holder: Holder
) -> None:
    try:
        with holder(address(engine)):
            data_key = erase_zenobia(faces, engine)
            assert not is_finished(faces, engine)
            assert not purge_deleted_rows(engine, rewrite=True)
    except NoPostgresqlError as error:
        pytest.skip(str(error))
    assert is_finished(faces, engine)
    assert traces_in(engine, data_key) == []


@pytest.mark.parametrize("holder", [reader_in_another_database, logical_slot])
def test_what_cannot_see_the_rows_keeps_no_erasure(
    faces: FaceRepositories, engine: Engine, holder: Holder
) -> None:
    with holder(address(engine)):
        data_key = erase_zenobia(faces, engine)
        assert is_finished(faces, engine)
        assert traces_in(engine, data_key) == []


def test_a_vacuum_of_another_table_keeps_no_erasure(
    faces: FaceRepositories, engine: Engine
) -> None:
    data_key = erase_zenobia(faces, engine)
    with vacuum_of_another_table(address(engine)):
        assert is_finished(faces, engine)
        assert traces_in(engine, data_key) == []


def test_tables_of_another_role_keep_an_erasure_unfinished(
    faces: FaceRepositories, engine: Engine
) -> None:
    """PostgreSQL does not vacuum them, and says so in a warning only."""
    with engine.begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS app"))
        connection.execute(text("CREATE ROLE app LOGIN"))
        connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO app"))
        connection.execute(text("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app"))
    erase_zenobia(faces, engine)
    url = make_url(address(engine)).set(username="app").render_as_string()
    app = open_engine(url)
    try:
        assert not is_finished(faces, app)
        others = ["face_devices", "idempotency", "subjects"]
        assert (tables_of_others(app), tables_of_others(engine)) == (others, [])
        (check,) = _erasures(Settings(_env_file=None, database_url=url))
        assert (check.state, check.name) == ("fail", "erasures")
        with writer(address(engine)), app.connect() as connection:
            seen = text("SELECT count(backend_xid) FROM pg_stat_activity")
            assert connection.scalar(seen) == 1, "of another role"
    finally:
        app.dispose()
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY app"))
            connection.execute(text("DROP ROLE app"))
    assert is_finished(faces, engine)


def test_transactions_of_opsin_that_follow_each_other_do_not_keep_an_erasure(
    faces: FaceRepositories, engine: Engine
) -> None:
    """Only the older ones count, and there is always another one."""
    stopped, other = threading.Event(), open_engine(address(engine))

    def write() -> None:
        while not stopped.is_set():
            with writing(other) as session:
                session.execute(text("SELECT pg_current_xact_id()"))
                time.sleep(0.03)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for one in writers:
        one.start()
    try:
        data_keys = []
        for _ in range(5):
            data_keys.append(erase_zenobia(faces, engine))
            assert is_finished(faces, engine)
            assert traces_in(engine, data_keys[-1]) == []
    finally:
        stopped.set()
        for one in writers:
            one.join()
        other.dispose()
