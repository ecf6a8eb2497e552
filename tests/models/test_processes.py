"""Children that end when their parent dies. (`tests.cli.processes` tests supervised ones.)"""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from models.processes import PARENT, child_environment, end_with_parent, module_command
from tests.cli.running import Run, until

_CHILD = """
import time
from models.processes import end_with_parent
end_with_parent()
time.sleep(600)
"""


def test_a_child_can_import_opsin_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", "import models.processes"]
    done = subprocess.run(command, env=child_environment(base={}), cwd=tmp_path, check=False)
    assert done.returncode == 0


def test_a_module_does_not_come_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    command = module_command("models.processes", sys.executable, "-c", "print('right')")
    done = subprocess.run(
        command, env=child_environment(), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "right"


def test_changes_are_added_to_the_environment() -> None:
    environment = child_environment({"A": "2"}, base={"A": "1", "B": "1", "PYTHONPATH": "/x"})
    assert (environment["A"], environment["B"]) == ("2", "1")
    assert environment["PYTHONPATH"].endswith("/x")
    assert environment[PARENT] == str(os.getpid())


def test_a_process_without_a_parent_variable_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT, raising=False)
    end_with_parent()


def test_an_orphan_ends_at_once(tmp_path: Path) -> None:
    code = f"""
import subprocess, sys, time
from models.processes import child_environment
child = subprocess.Popen([sys.executable, "-c", {_CHILD!r}], env=child_environment())
print(child.pid, flush=True)
time.sleep(600)
"""
    run = Run(tmp_path / "output", dict(os.environ), "-c", code)
    until(lambda: run.text.strip().isdecimal())
    child = psutil.Process(int(run.text))
    run.process.kill()
    run.wait()
    until(lambda: not child.is_running())


def test_a_child_ends_if_its_parent_died_before_it_began() -> None:
    environment = child_environment() | {PARENT: "1"}
    done = subprocess.run([sys.executable, "-c", _CHILD], env=environment, timeout=120, check=False)
    assert done.returncode == 1
