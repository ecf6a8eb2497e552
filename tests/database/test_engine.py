"""Transactions that write wait for each other, and keep no connection from those that read."""

import threading

from sqlalchemy import Engine, select

from contracts.errors import Unavailable
from database.engine import reading, writing
from database.tables import AuditRecord


def test_writers_that_wait_leave_connections_to_readers(engine: Engine) -> None:
    entered, failed = threading.Barrier(31), []

    def write() -> None:
        entered.wait(20)
        try:
            with writing(engine) as session:
                session.execute(select(AuditRecord.id)).first()
        except Unavailable:
            failed.append(1)

    threads = [threading.Thread(target=write) for _ in range(30)]
    with writing(engine):
        for thread in threads:
            thread.start()
        entered.wait(20)
        with reading(engine) as session:
            assert session.execute(select(AuditRecord.id)).first() is None
    for thread in threads:
        thread.join(20)
    assert failed == []
