"""Quick versions of `make chaos`, `make soak` and the overload, on one deployment.

Starting it takes most of the time; faults after which a worker has to start are left to the
commands.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.load.images import write_images
from tests.reliability import chaos, restart
from tests.reliability.chaos import run_fault
from tests.reliability.deployment import Deployment
from tests.reliability.faults import FAULTS
from tests.reliability.overload import overload
from tests.reliability.soak import Journal, growth_of_figures, soak
from tests.reliability.soak_load import EXPECTED, Load

pytestmark = pytest.mark.slow

BY_NAME = {fault.name: fault for fault in FAULTS}
QUICK = ("kill -9 of Valkey", "FLUSHALL", "database locked for 8 s", "200 half-open connections")


@pytest.fixture(scope="module")
def jpegs(fetched_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files to send."""
    folder = tmp_path_factory.mktemp("jpegs")
    write_images(fetched_home / "samples", folder)
    return folder


@pytest.mark.parametrize("name", QUICK)
def test_fault_loses_nothing(deployment: Deployment, images: dict[str, bytes], name: str) -> None:
    fault = BY_NAME[name]
    if fault.hold:
        fault = replace(fault, hold=1.0)
    row = asyncio.run(run_fault(deployment, fault, images, rate=4))
    assert len(row.report.requests) >= 10
    assert row.report.jobs
    assert row.is_good, (row.report.codes(), row.report.jobs, row.report.refused_jobs)


def test_some_hundred_requests_leave_nothing_behind(deployment: Deployment, jpegs: Path) -> None:
    """Memory means nothing after so few requests, but counts do."""
    sent = [file.read_bytes() for file in sorted(jpegs.glob("*.jpg"))]
    load, journal = Load(deployment.port, sent, 300), Journal(Console(quiet=True))
    asyncio.run(soak(deployment, load, 4, journal))
    assert load.outcomes.total() == 300
    assert set(load.outcomes) <= EXPECTED, load.outcomes
    assert load.outcomes["200"] > 250
    assert journal.samples[-1].figures["worker: traced graphs"] >= 1
    # A pool may still grow at first.
    grown = [
        figure for figure in growth_of_figures(journal.samples) if "descriptors" in figure.name
    ]
    assert all(figure.late <= figure.early + 8 for figure in grown), grown


def test_overload_is_answered_or_refused(deployment: Deployment, jpegs: Path) -> None:
    """Speed is measured by the command, on an idle machine."""
    result = overload(deployment, jpegs, seconds=3.0)
    assert set(result.open.errors) <= {"429"}
    assert result.open.answered > 0
    assert result.growth < 300
    assert deployment.is_ready()


@pytest.mark.timeout(3600)
def test_all_faults(fetched: Path) -> None:
    rows = chaos.Matrix(fetched, 6.0, Console()).run(FAULTS)
    assert [row.fault.name for row in rows if not row.is_good] == []


@pytest.mark.timeout(900)
def test_rolling_restart_is_not_noticed(fetched: Path) -> None:
    result = restart.run(10.0, fetched)
    assert result.is_good, result
