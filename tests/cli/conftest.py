"""Fixtures: real command lines that leave nothing behind, and a data home of their own."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cli.home import Home
from tests.cli.running import ROOT, Run, Starter


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts `python …` with OPSIN_ settings given as keywords."""
    runs: list[Run] = []

    def begin(*command: str, **settings: object) -> Run:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OPSIN_")}
        environment |= {name: str(value) for name, value in settings.items()}
        environment |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"}
        environment.setdefault("OPSIN_HOME", str(tmp_path / "home"))
        run = Run(tmp_path / f"output-{len(runs)}", environment, *command)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        if run.process.poll() is None:
            left = run.descendants()
            run.process.send_signal(signal.SIGKILL)
            run.process.wait(60)
            for process in left:
                with suppress(psutil.Error):
                    process.kill()


@pytest.fixture
def home() -> Iterator[Home]:
    # Not tmp_path: pytest's own folder may be too deep for a socket.
    with tempfile.TemporaryDirectory(prefix="opsin-test-") as folder:
        home = Home(Path(folder, "home"))
        home.prepare()
        yield home
