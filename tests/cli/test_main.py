import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import COMMANDS, load_command
from contracts.settings import RELEASE
from tests.cli.running import ROOT, Starter


def test_help_loads_nothing_heavy() -> None:
    """What `opsin` imports before it knows the command decides how quickly it answers."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "classify" in done.stdout
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.split("\n")}
    assert "typer" in loaded
    heavy = {"celery", "cv2", "fastapi", "keras", "numpy", "redis", "sqlalchemy", "tensorflow"}
    assert not loaded & heavy


@pytest.mark.parametrize("name", COMMANDS)
def test_each_summary_is_that_of_the_command(name: str) -> None:
    assert load_command(name).help.startswith(COMMANDS[name][1])


@pytest.mark.parametrize(
    "module", ["cli.main", "cli.commands.up", "cli.commands.classify", "cli.commands.diagnostics"]
)
def test_no_command_loads_tensorflow_by_itself(module: str) -> None:
    program = (
        f"import sys, {module}; print([m for m in ('tensorflow', 'keras', 'celery', 'fastapi') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_version_option(start: Starter) -> None:
    run = start("-m", "cli", "--version")
    assert run.wait() == 0
    assert run.text == f"Opsin {RELEASE}\n"


def test_a_bad_setting_is_named_as_in_the_environment(start: Starter) -> None:
    run = start("-m", "cli", "up", OPSIN_PORT="http")
    assert run.wait() == 2
    assert "OPSIN_PORT: Input should be a valid integer" in run.text
    assert "Traceback" not in run.text


def test_an_unknown_network_is_refused(start: Starter) -> None:
    run = start("-m", "cli", "up", OPSIN_MODELS="squeezenet,resnet")
    assert run.wait() == 2
    assert "OPSIN_MODELS names resnet; known are efficientnet_lite0" in run.text


@pytest.mark.parametrize("role", ["serve", "worker"])
def test_serve_and_worker_need_a_redis(start: Starter, role: str) -> None:
    run = start("-m", "cli", role)
    assert run.wait() == 2
    assert f"`opsin {role}` needs OPSIN_REDIS_URL" in run.text


def test_it_runs_from_any_folder(tmp_path: Path) -> None:
    """A folder of the user's with the name of one of ours is not imported."""
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cli", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "classify" in done.stdout, done.stderr
