"""Large deletions are divided, and an SQLite file gives the disk back what they leave."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from contracts.errors import Unavailable
from contracts.settings import MIB
from database import space
from database.audit import Actor, Audit
from database.engine import STEP_BYTES, open_engine, reading, writing
from database.idempotency import IdempotencyKey, StoredResponse, delete_expired, remember
from database.jobs import jobs as jobs_module
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases
from database.jobs.queries import delete_jobs
from database.migrations import upgrade
from database.tables import AnswerRecord
from tests.database.conftest import Clock

ONE = {"text": "x" * 3 * MIB}


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "opsin.db"


@pytest.fixture
def sqlite(file: Path) -> Iterator[Engine]:
    upgrade(f"sqlite:///{file}")
    engine = open_engine(f"sqlite:///{file}")
    yield engine
    engine.dispose()


def finish(engine: Engine, count: int) -> Jobs:
    """Jobs with results of 3 MB each."""
    jobs, leases = Jobs(engine, now), Leases(engine, now)
    for _ in range(count):
        lease = leases.claim(jobs.create("classify", {}, limit=100).job.id, "w", 30)
        assert lease is not None
        leases.succeed(lease, ONE)
    return jobs


def purge(jobs: Jobs) -> int:
    """As the service does."""
    total = 0
    while count := jobs.purge(timedelta(0)):
        total += count
    while jobs.give_back():
        pass
    return total


def size(file: Path) -> int:
    return file.stat().st_size


def log_of(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


def auto_vacuum(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("PRAGMA auto_vacuum").fetchone()[0])


def test_a_purge_is_divided_and_the_file_and_its_log_shrink(
    sqlite: Engine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one transaction it needed as much room again, and kept it for ever."""
    jobs = finish(sqlite, 16)
    assert size(file) + size(log_of(file)) > 48 * MIB
    together, largest = list[int](), list[int]()

    def delete(session: Session, ids: Collection[str]) -> None:
        together.append(len(ids))
        delete_jobs(session, ids)
        largest.append(size(log_of(file)))

    monkeypatch.setattr(jobs_module, "delete_jobs", delete)
    assert purge(jobs) == 16
    assert sum(together) == 16
    assert max(together) == STEP_BYTES // (3 * MIB)
    assert max(largest) <= 2 * STEP_BYTES
    assert space.truncate_log(sqlite)
    assert space._KEPT_BYTES <= size(file) < 20 * MIB
    finish(sqlite, 1)
    assert size(log_of(file)) <= STEP_BYTES


def test_a_purge_ends_after_some_seconds_and_goes_on(
    sqlite: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = finish(sqlite, 8)
    monkeypatch.setattr(jobs_module, "_PURGE_SECONDS", 0)
    assert jobs.purge(timedelta(0)) == STEP_BYTES // (3 * MIB)
    assert jobs.purge(timedelta(0)) == 8 - STEP_BYTES // (3 * MIB)
    assert jobs.purge(timedelta(0)) == 0


def test_a_purge_that_finds_no_room_leaves_no_log(
    sqlite: Engine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_session: Session, _ids: Collection[str]) -> None:
        raise Unavailable("The disk of the database is full.")

    jobs = finish(sqlite, 1)
    assert size(log_of(file)) > 0
    monkeypatch.setattr(jobs_module, "delete_jobs", full)
    with pytest.raises(Unavailable):
        jobs.purge(timedelta(0))
    assert size(log_of(file)) == 0


def test_a_file_of_an_earlier_release_is_rewritten_once_it_is_mostly_empty(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE earlier (x)")
    upgrade(f"sqlite:///{file}")
    engine = open_engine(f"sqlite:///{file}")
    jobs = finish(engine, 3)
    assert purge(jobs) == 3
    assert auto_vacuum(file) == 0
    monkeypatch.setattr(space, "_WASTED_BYTES", 8 * MIB)
    monkeypatch.setattr(space, "_has_room", lambda *_: False)
    purge(jobs)
    assert auto_vacuum(file) == 0
    monkeypatch.undo()
    monkeypatch.setattr(space, "_WASTED_BYTES", 8 * MIB)
    purge(jobs)
    space.truncate_log(engine)
    assert auto_vacuum(file) == 2
    assert size(file) < 2 * MIB
    assert not finish(engine, 1).page().next_cursor
    engine.dispose()


def test_old_lines_are_deleted_in_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_STEP_ROWS", 2)
    clock = Clock()
    audit = Audit(engine, clock)
    for number in range(6):
        audit.write(Actor("key_a"), "alias_set", str(number))
        clock.advance(86_400)
    assert audit.delete_old(1) == 5
    assert [entry.subject for entry in audit.list().items] == ["5"]


def test_expired_responses_are_deleted_in_steps(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("database.idempotency._ROWS", 2)
    for number in range(6):
        with writing(engine) as session:
            key = IdempotencyKey(f"k{number}", "dataset", "d" * 64)
            remember(session, key, StoredResponse(201, {"n": number}), clock())
        clock.advance(3600)
    clock.advance(24 * 3600 - 2 * 3600)
    assert delete_expired(engine, clock()) == 5
    with reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(AnswerRecord)) == 1


def test_a_response_that_replaces_an_expired_one_meanwhile_is_kept(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store(number: int) -> None:
        key = IdempotencyKey("k", "dataset", "d" * 64)
        with writing(engine) as session:
            remember(session, key, StoredResponse(201, {"n": number}), clock())

    def replaced(sizes: Iterable[tuple[tuple[str, str], int]]) -> Iterator[list[tuple[str, str]]]:
        store(2)
        yield from space.steps(sizes)

    store(1)
    clock.advance(24 * 3600)
    monkeypatch.setattr("database.idempotency.steps", replaced)
    delete_expired(engine, clock())
    with reading(engine) as session:
        assert session.scalar(select(AnswerRecord.body)) == {"n": 2}


def test_a_purge_of_responses_ends_after_some_seconds_and_goes_on(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "_PURGE_SECONDS", 0)
    monkeypatch.setattr("database.idempotency._ROWS", 2)
    for number in range(3):
        with writing(engine) as session:
            key = IdempotencyKey(f"k{number}", "dataset", "d" * 64)
            remember(session, key, StoredResponse(201, {"n": number}), clock())
    clock.advance(24 * 3600)
    jobs = Jobs(engine, clock)
    assert [jobs.purge(timedelta(0)) for _ in range(3)] == [2, 1, 0]


def test_steps_hold_at_least_one_row() -> None:
    sizes = [("a", 50), ("b", 60), ("c", 200), ("d", 1)]
    assert list(space.steps(sizes, 100)) == [["a"], ["b"], ["c"], ["d"]]
    assert list(space.steps(sizes, 110)) == [["a", "b"], ["c"], ["d"]]
    assert list(space.steps([], 110)) == []


def test_a_step_that_fails_leaves_no_connection_with_its_settings(sqlite: Engine) -> None:
    before = patience_of(sqlite)
    assert not space._run(sqlite, "PRAGMA busy_timeout = 100; VACUUM INTO '/'", is_last=True)
    assert patience_of(sqlite) == before


def patience_of(engine: Engine) -> set[int]:
    """The timeouts of the connections of the pool."""
    connections = [engine.raw_connection() for _ in range(4)]
    try:
        return {
            one.cursor().execute("PRAGMA busy_timeout").fetchone()[0]  # type: ignore[index]
            for one in connections
        }
    finally:
        for one in connections:
            one.close()


def test_a_log_that_a_full_disk_keeps_is_told(
    sqlite: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    assert space.truncate_log(sqlite)
    monkeypatch.setattr(sqlite, "raw_connection", full)
    assert not space.truncate_log(sqlite)
