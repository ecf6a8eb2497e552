"""Transactions that write wait for each other, and keep no connection from those that read."""

import re
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

import database
from contracts.errors import Unavailable
from database.engine import DamagedDatabaseError, open_engine, reading, writing
from database.migrations import current, upgrade
from database.tables import AuditRecord


def test_writers_that_wait_leave_connections_to_readers(engine: Engine) -> None:
    entered, failed = threading.Barrier(31), []

    def write() -> None:
        entered.wait(60)
        try:
            with writing(engine) as session:
                session.execute(select(AuditRecord.id)).first()
        except Unavailable:
            failed.append(1)

    threads = [threading.Thread(target=write) for _ in range(30)]
    with writing(engine):
        for thread in threads:
            thread.start()
        entered.wait(60)
        with reading(engine) as session:
            assert session.execute(select(AuditRecord.id)).first() is None
    for thread in threads:
        thread.join(60)
    assert failed == []


def test_a_full_disk_is_no_database_that_does_not_answer(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'opsin.db'}"
    upgrade(url)
    engine = open_engine(url)
    with reading(engine) as session:  # of the one connection that the pool then has
        session.execute(text("PRAGMA max_page_count = 1"))  # the size that it has
    with pytest.raises(Unavailable, match="disk of the database is full"), writing(engine) as full:
        full.execute(text("CREATE TABLE large AS SELECT zeroblob(1000000)"))
    engine.dispose()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "opsin.db").mkdir()
    engine = open_engine(f"sqlite:///{tmp_path / 'opsin.db'}")
    with pytest.raises(Unavailable, match="cannot be opened"), reading(engine) as session:
        session.execute(text("SELECT 1"))
    engine.dispose()


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    file = tmp_path / "opsin.db"
    file.write_bytes(b"no database at all" * 100)
    for use in (upgrade, current):
        with pytest.raises(DamagedDatabaseError, match="opsin restore --force"):
            use(f"sqlite:///{file}")


def test_no_two_advisory_locks_have_one_number() -> None:
    """Otherwise two transactions that have nothing in common wait for each other."""
    sources = Path(database.__file__).parent.rglob("*.py")
    found = [
        re.findall(r"^_LOCK = (0x0951_\d{4})", one.read_text(), re.MULTILINE) for one in sources
    ]
    numbers = [number for several in found for number in several]
    assert len(numbers) >= 8
    assert len(set(numbers)) == len(numbers)
