"""Fixtures: command lines that leave nothing behind, and a data home of their own."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path

import psutil
import pytest

from cli.home import Home
from cli.main import run as run_command
from tests.cli.running import ROOT, Run, Starter

Call = Callable[..., tuple[int, str]]


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
def call(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Calls `opsin …` in this process, in a hundredth of the time of another one.

    OPSIN_ settings are given as keywords. Returns the exit code, and what was printed.
    """

    def begin(*words: str, **settings: object) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("OPSIN_")]:
                patch.delenv(name)
            shown = {"NO_COLOR": "1", "COLUMNS": "200"}
            for name, value in {"OPSIN_HOME": tmp_path / "home", **shown, **settings}.items():
                patch.setenv(name, str(value))
            patch.setattr(sys, "argv", ["opsin", *words])
            with pytest.raises(SystemExit) as ended:
                copy_context().run(run_command)
        return int(ended.value.code or 0), "".join(capfd.readouterr())

    return begin


@pytest.fixture
def home() -> Iterator[Home]:
    # Not tmp_path: pytest's own folder may be too deep for a socket.
    with tempfile.TemporaryDirectory(prefix="opsin-test-") as folder:
        home = Home(Path(folder, "home"))
        home.prepare()
        yield home
