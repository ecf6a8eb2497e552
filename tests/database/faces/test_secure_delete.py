"""What PostgreSQL's files hold of an erased subject, and when an erasure may end."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.orm import Session

from contracts.faces.subjects import NewSubject
from contracts.settings import Settings
from database import secure_delete
from database.engine import open_engine
from database.faces.privacy.erasures import SCOPE
from database.faces.repositories import FaceRepositories
from database.idempotency import IdempotencyKey
from database.migrations import upgrade
from database.secure_delete import _LOCK, _rewrite, purge_deleted_rows, rewrite_for_erasures
from database.tables import AnswerRecord, Record
from tests.database.conftest import Clock

TRACES = ("Zenobia of Palmyra", "passport-XQ7731", "zzmeta")


@pytest.fixture
def engine(postgresql: str) -> Iterator[Engine]:
    upgrade(postgresql)
    engine = open_engine(postgresql)
    yield engine
    with engine.begin() as connection:
        Record.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()


@pytest.fixture
def faces(engine: Engine, clock: Clock, tmp_path: Path) -> FaceRepositories:
    return FaceRepositories.of(Settings(_env_file=None, home=tmp_path), engine, clock)


def heap(engine: Engine) -> bytes:
    """All files of the databases, as someone who steals the disk reads them."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
        folder = Path(connection.scalar(text("SHOW data_directory")), "base")
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def add(faces: FaceRepositories, name: str, **more: Any) -> str:
    key = IdempotencyKey(name, SCOPE, "digest")
    return str(faces.subjects.create(NewSubject(name=name, **more), key=key)["id"])


def erase_zenobia(faces: FaceRepositories, engine: Engine) -> bytes:
    """Add three subjects and erase the last; returns its data key, which is encrypted."""
    name, external_id, detail = TRACES
    add(faces, "Ada")
    add(faces, "Bea")
    zen = add(faces, name, external_id=external_id, metadata={"m": detail})
    with engine.connect() as connection:
        query = text("SELECT data_key FROM subjects WHERE id = :id")
        data_key = bytes(connection.scalar(query, {"id": zen}))
        connection.commit()
        connection.execute(text("ANALYZE"))
        connection.commit()
    assert name.encode() in heap(engine)
    faces.subjects.erase(zen)
    return data_key


def test_no_file_of_a_table_holds_an_erased_subject(
    faces: FaceRepositories, engine: Engine
) -> None:
    """Beside rows that stay, an ordinary vacuum leaves the bytes of a deleted one."""
    data_key = erase_zenobia(faces, engine)
    assert purge_deleted_rows(engine)
    assert data_key in heap(engine), "if not, a rewrite is no longer needed"
    assert purge_deleted_rows(engine, rewrite=True)
    left = heap(engine)
    assert data_key not in left
    for trace in TRACES:
        assert trace.encode() not in left
    assert b"Bea" in left


def test_a_transaction_that_still_sees_the_row_keeps_the_erasure_unfinished(
    faces: FaceRepositories, engine: Engine
) -> None:
    with engine.connect() as reader:
        reader.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        reader.scalar(text("SELECT count(*) FROM subjects"))
        data_key = erase_zenobia(faces, engine)
        assert not purge_deleted_rows(engine, rewrite=True)
    assert purge_deleted_rows(engine, rewrite=True)
    assert data_key not in heap(engine)


def test_a_locked_table_keeps_the_erasure_unfinished_and_settings_are_reset(
    faces: FaceRepositories, engine: Engine
) -> None:
    erase_zenobia(faces, engine)
    with engine.begin() as reader:
        reader.execute(text("LOCK TABLE subjects IN ROW EXCLUSIVE MODE"))
        assert not purge_deleted_rows(engine, rewrite=True)
    for _ in range(engine.pool.checkedin()):
        with engine.connect() as connection:
            assert connection.scalar(text("SHOW statement_timeout")) == "5s"
            assert connection.scalar(text("SHOW lock_timeout")) == "5s"


def test_a_vacuum_may_take_longer_than_a_request(engine: Engine) -> None:
    seconds: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: object, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("VACUUM"):
            cursor.execute("SHOW statement_timeout")
            seconds.append(cursor.fetchone()[0])

    assert purge_deleted_rows(engine)
    assert purge_deleted_rows(engine, rewrite=True)
    assert seconds == ["10min"] * 3


def rest_until(engine: Engine, moment: str) -> None:
    value = f"json_build_object('until', extract(epoch FROM {moment}))"
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE face_settings SET value = {value} WHERE key = 'table_rewrite'")
        )


def test_a_rewrite_serves_all_erasures_that_have_begun(
    faces: FaceRepositories, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of other processes too: each reads the marks, and none rewrites for nothing."""
    monkeypatch.setattr("database.secure_delete._RESTS", 1000)
    ids = [add(faces, name, external_id=f"id of {name}") for name in ("Ada", "Bea", "Cid")]
    for one in ids[:2]:
        faces.subjects.erase(one)
    assert faces.erasures.not_rewritten_among(ids) == set(ids[:2])
    assert rewrite_for_erasures(engine) == 0
    assert faces.erasures.not_rewritten_among(ids) == set()
    assert faces.erasures.unfinished_among(ids) == set(ids[:2]), "until Redis has forgotten them"
    assert b"id of Ada" not in heap(engine)
    faces.subjects.erase(ids[2])
    assert 0 < rewrite_for_erasures(engine) <= 30
    assert faces.erasures.not_rewritten_among(ids) == {ids[2]}
    rest_until(engine, "now() + interval '1 hour'")  # before the clock was set back
    assert rewrite_for_erasures(engine) == 0
    assert b"id of Cid" not in heap(engine)
    faces.erasures.finish(ids)
    assert faces.events.list(subject_id=ids[0]).items[0].reason is None


def test_one_process_at_a_time_rewrites_the_tables(faces: FaceRepositories, engine: Engine) -> None:
    faces.subjects.erase(add(faces, "Ada"))
    with engine.connect() as other:
        other.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
        began = time.monotonic()
        assert 0 < rewrite_for_erasures(engine) < 1
        assert time.monotonic() - began < 1
        other.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))
    assert rewrite_for_erasures(engine) == 0


def test_what_is_deleted_after_the_rewrite_needs_another(
    faces: FaceRepositories, engine: Engine
) -> None:
    """A response that was still being written when the person was erased."""
    ada = add(faces, "Ada")
    with Session(engine) as session:
        answer = session.scalars(select(AnswerRecord)).one()
        columns = {one.name: getattr(answer, one.name) for one in AnswerRecord.__table__.columns}
    faces.subjects.erase(ada)
    assert rewrite_for_erasures(engine) == 0
    faces.subjects.erase_traces(ada)
    assert faces.erasures.not_rewritten_among([ada]) == set()
    with Session(engine) as session, session.begin():
        session.add(AnswerRecord(**columns))
    faces.subjects.erase_traces(ada)
    assert faces.erasures.not_rewritten_among([ada]) == {ada}


def test_what_is_deleted_during_the_rewrite_needs_another(
    faces: FaceRepositories, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = add(faces, "Ada")
    with Session(engine) as session:
        answer = session.scalars(select(AnswerRecord)).one()
        columns = {one.name: getattr(answer, one.name) for one in AnswerRecord.__table__.columns}
    faces.subjects.erase(ada)
    bea = add(faces, "Bea")
    faces.subjects.erase(bea)

    def rewrite(connection: Connection, now: str) -> bool:
        is_done = _rewrite(connection, now)
        with Session(engine) as session, session.begin():
            session.add(AnswerRecord(**columns))
        faces.subjects.erase_traces(ada)
        return is_done

    monkeypatch.setattr(secure_delete, "_rewrite", rewrite)
    assert rewrite_for_erasures(engine) == 0
    assert faces.erasures.not_rewritten_among([ada, bea]) == {ada}


def test_a_failed_rewrite_is_followed_by_a_rest(faces: FaceRepositories, engine: Engine) -> None:
    faces.subjects.erase(ada := add(faces, "Ada"))
    with engine.begin() as reader:
        reader.execute(text("LOCK TABLE subjects IN ROW EXCLUSIVE MODE"))
        assert rewrite_for_erasures(engine) == 0
        assert faces.erasures.not_rewritten_among([ada]) == {ada}
    assert rewrite_for_erasures(engine) > 1
