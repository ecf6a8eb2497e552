"""Leases of two hosts whose clocks differ."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from contracts.errors import Unavailable
from database.clock import DatabaseClock
from database.engine import open_engine
from database.jobs.jobs import Jobs
from database.jobs.leases import Leases


def host_ahead(engine: Engine, seconds: float) -> DatabaseClock:
    """The clock of a host that is ahead. All hosts of an SQLite file are one."""
    wall = seconds if engine.dialect.name == "postgresql" else 0
    return DatabaseClock(
        engine,
        lambda: time.monotonic() + 10 * seconds,
        lambda: datetime.now(UTC) + timedelta(seconds=wall),
    )


@pytest.mark.parametrize("ahead", [4, 31, -31, 65])
def test_a_host_with_another_clock_does_not_take_a_running_job(
    engine: Engine, ahead: float
) -> None:
    here, there = host_ahead(engine, 0), host_ahead(engine, ahead)
    job = Jobs(engine, there).create("embed", {"model": "vgg16"}, limit=10).job
    ours, theirs = Leases(engine, here), Leases(engine, there)
    lease = ours.claim(job.id, "w1", 30)
    assert lease is not None
    assert theirs.claim(job.id, "w2", 30) is None
    assert theirs.sweep(300).resend == []
    assert ours.heartbeat(lease, 30)
    assert ours.status(lease) == "held"
    assert ours.release(lease)
    assert theirs.claim(job.id, "w2", 30) is not None


def test_the_clock_runs_on_while_the_database_does_not_answer() -> None:
    engine = open_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    clock = DatabaseClock(engine)
    with pytest.raises(Unavailable):
        clock()
    clock._measured = (time.monotonic() - 60, datetime(2026, 1, 1, tzinfo=UTC))
    assert clock() - datetime(2026, 1, 1, tzinfo=UTC) >= timedelta(seconds=60)
