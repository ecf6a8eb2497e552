"""What an erasure costs does not depend on how many others there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from contracts.faces.subjects import NewEvent, NewSubject
from contracts.settings import Settings
from database.engine import open_engine, reading
from database.faces.enrollments import failed_by_service
from database.faces.privacy.erasures import SCOPE
from database.faces.repositories import FaceRepositories
from database.idempotency import IdempotencyKey
from database.installation import adopt
from database.jobs.jobs import Jobs
from database.migrations import upgrade
from database.tables import AnswerRecord
from tests.database.conftest import Clock


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    """Of tables that the migrations made."""
    upgrade(empty_url)
    engine = open_engine(empty_url)
    yield engine
    engine.dispose()


@pytest.fixture
def faces(engine: Engine, clock: Clock, tmp_path: Path) -> FaceRepositories:
    adopt(engine, tmp_path)
    return FaceRepositories.of(Settings(_env_file=None, home=tmp_path), engine, clock)


GROWING = (
    "idempotency",
    "jobs",
    "subjects",
    "audit",
    "face_events",
    "face_devices",
    "face_files",
    "face_templates",
)


@contextmanager
def plans(engine: Engine, *, only_writing: bool = False) -> Iterator[list[str]]:
    """The statements that look at all rows of a table that grows, with their plans."""
    scans: list[str] = []
    is_sqlite = engine.dialect.name == "sqlite"
    explain, scan = ("EXPLAIN QUERY PLAN ", "SCAN") if is_sqlite else ("EXPLAIN ", "Seq Scan on")

    def note(
        connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        writes = connection.get_execution_options().get("opsin_writes")
        if not statement.startswith(("SELECT", "UPDATE", "DELETE")) or many:
            return
        if only_writing and not writes:
            return
        with cursor.connection.cursor() if not is_sqlite else _closing(cursor) as other:
            if not is_sqlite:
                other.execute("SET LOCAL enable_seqscan = off")  # the tables are nearly empty
            other.execute(explain + statement, parameters)
            plan = [str(row[-1]) for row in other.fetchall()]
        # The last is an index of a few rows.
        all_rows = [line for line in plan if scan in line and "face_events_unfinished" not in line]
        if any(f"{scan} {table}" in line for line in all_rows for table in GROWING):
            scans.append("\n".join((statement, *plan)))

    event.listen(engine, "after_cursor_execute", note)
    try:
        yield scans
    finally:
        event.remove(engine, "after_cursor_execute", note)


@contextmanager
def _closing(cursor: Any) -> Iterator[Any]:
    other = cursor.connection.cursor()
    try:
        yield other
    finally:
        other.close()


def enrolled(faces: FaceRepositories, jobs: Jobs, name: str) -> str:
    """A subject of whom every table has something."""
    key = IdempotencyKey(name, SCOPE, "digest")
    subject_id = str(faces.subjects.create(NewSubject(name=name), key=key)["id"])
    faces.devices.add(subject_id, "phone", {"kty": "EC"}, key=f"{name}-device")
    faces.events.record(NewEvent("login", "match", subject_id, device="phone", content=b"face"))
    key = IdempotencyKey(f"{name}-enrollment", "enrollment", "digest")
    jobs.create("enrollment", {"subject_id": subject_id}, limit=9, idempotency=key)
    return subject_id


def test_no_statement_of_an_erasure_looks_at_all_rows(
    faces: FaceRepositories, engine: Engine, clock: Clock
) -> None:
    jobs = Jobs(engine, clock)
    ada, bea = (enrolled(faces, jobs, name) for name in ("ada", "bea"))
    with plans(engine) as scans:
        erasure = faces.subjects.erase(ada)
        faces.subjects.delete_jobs(erasure.jobs)
        assert faces.erasures.pending(timedelta(hours=1)) == [ada]
        assert faces.subjects.with_traces([ada, bea]) == {bea}
        faces.subjects.erase_traces(ada)
        faces.erasures.finish([ada])
        assert not failed_by_service(engine, bea, "ch_1")
    assert not scans
    assert len(erasure.jobs) == 1


def test_no_transaction_that_writes_looks_at_all_jobs(
    faces: FaceRepositories, engine: Engine, clock: Clock
) -> None:
    """Those that name a person are found by reading all, while others write."""
    jobs = Jobs(engine, clock)
    ada = enrolled(faces, jobs, "ada")
    with plans(engine, only_writing=True) as scans:
        named = jobs.create("filters", {"label": ada}, limit=9, scopes=("faces",)).job.id
        assert jobs.erase_about(ada, {("door", 1)}) == 1
        jobs.cancel(jobs.create("filters", {}, limit=9).job.id)
        jobs.purge(timedelta(days=1))
    assert not scans
    assert named not in {job.job.id for job in jobs.page().items}


def test_a_nul_in_a_stored_response_lets_everybody_be_erased(
    faces: FaceRepositories, engine: Engine
) -> None:
    """PostgreSQL stores it in a JSON column, but fails to read any field of that object."""
    key, new = IdempotencyKey("ada", SCOPE, "digest"), NewSubject(name="Ada", metadata={"a": "\0"})
    ada = str(faces.subjects.create(new, key=key)["id"])
    bea = str(faces.subjects.create(NewSubject(name="Bea"))["id"])
    for one in (bea, ada):
        faces.subjects.erase(one)
    with reading(engine) as session:
        assert session.get(AnswerRecord, ("ada", SCOPE)) is None
