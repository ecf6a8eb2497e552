"""The quick versions of `make chaos`, `make soak` and the overload, on one installation.

What takes its time is the start; the faults that need a new worker are the command's alone.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.load.pictures import write_pictures
from tests.reliability import chaos, restart
from tests.reliability.chaos import suffer
from tests.reliability.faults import FAULTS
from tests.reliability.house import House
from tests.reliability.overload import overload
from tests.reliability.soak import Journal, soak, verdicts
from tests.reliability.soak_load import EXPECTED, Load

pytestmark = pytest.mark.slow

BY_NAME = {fault.name: fault for fault in FAULTS}
QUICK = ("kill -9 of Valkey", "FLUSHALL", "database locked for 8 s", "200 half-open connections")


@pytest.fixture(scope="module")
def photos(fetched_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files to send."""
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(fetched_home / "samples", folder)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_a_fault_loses_nothing(house: House, pictures: dict[str, bytes], name: str) -> None:
    fault = BY_NAME[name]
    if fault.hold:
        fault = replace(fault, hold=1.0)
    row = asyncio.run(suffer(house, fault, pictures, rate=4))
    assert len(row.account.requests) >= 10
    assert row.account.jobs
    assert row.is_good, (row.account.codes(), row.account.jobs, row.account.refused_jobs)


def test_some_hundred_requests_leave_nothing_behind(house: House, photos: Path) -> None:
    """Memory says nothing yet after so few; what is counted in pieces does."""
    sent = [file.read_bytes() for file in sorted(photos.glob("*.jpg"))]
    load, journal = Load(house.port, sent, 300), Journal(Console(quiet=True))
    asyncio.run(soak(house, load, 4, journal))
    assert load.became.total() == 300
    assert set(load.became) <= EXPECTED, load.became
    assert load.became["200"] > 250
    assert journal.samples[-1].figures["worker: traced graphs"] >= 1
    # A pool may still grow with its first crowd.
    grown = [one for one in verdicts(journal.samples) if "descriptors" in one.name]
    assert all(one.late <= one.early + 8 for one in grown), grown


def test_more_than_it_can_do_is_answered_or_refused(house: House, photos: Path) -> None:
    """How fast is the command's to say, on a machine that does nothing else."""
    outcome = overload(house, photos, seconds=3.0)
    assert set(outcome.open.errors) <= {"429"}
    assert outcome.open.answered > 0
    assert outcome.growth < 300
    assert house.is_ready()


@pytest.mark.timeout(3600)
def test_the_whole_matrix(fetched: Path) -> None:
    rows = chaos.Matrix(fetched, 6.0, Console()).run(FAULTS)
    assert [row.fault.name for row in rows if not row.is_good] == []


@pytest.mark.timeout(900)
def test_a_rolling_restart_is_noticed_by_nobody(fetched: Path) -> None:
    outcome = restart.run(10.0, fetched)
    assert outcome.is_good, outcome
