"""Commands in a folder without a home use that of the service which runs on this machine."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cli.running_home import noted, running_home
from contracts.settings import Settings
from tests.cli.running import ROOT, Starter, free_port


def opsin(folder: Path, port: int, *words: str) -> subprocess.CompletedProcess[str]:
    """One command in a folder, by somebody who has set no home."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPSIN_")}
    environment |= {"PYTHONPATH": str(ROOT), "OPSIN_PORT": str(port), "NO_COLOR": "1"}
    return subprocess.run(
        (sys.executable, "-m", "cli", *words),
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def test_a_command_in_another_folder_uses_the_running_services_home(
    start: Starter, tmp_path: Path, photos: Path
) -> None:
    home, port = tmp_path / "home", free_port()
    run = start("tests/cli/stand_in.py", "up", OPSIN_HOME=home, OPSIN_PORT=port)
    run.wait_for("Opsin is ready")
    run.wait_for("Ctrl-C")
    made = opsin(photos, port, "keys", "cli")
    assert made.returncode == 0, made.stderr
    assert f"This command uses {home}, the home of the service at" in made.stderr
    assert (home / "cli.key").exists()
    assert list(photos.iterdir()) == []  # no second installation

    (photos / "var/store").mkdir(parents=True)  # a home of its own stays in use
    listed = opsin(photos, port, "models", "list")
    assert f"export OPSIN_HOME={home}" in listed.stderr
    run.process.terminate()
    assert run.wait() == 0
    assert running_home(port) is None
    assert "OPSIN_HOME" not in opsin(photos, port, "models", "list").stderr


def test_the_note_of_a_process_that_has_ended_is_not_believed(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path, port=free_port())
    (tmp_path / "run").mkdir()
    with noted(settings):
        assert running_home(settings.port) is None  # no process has locked the home
        (tmp_path / "run/up.lock").write_text(f"{os.getpid()}\n")
        assert running_home(settings.port) == tmp_path
    assert running_home(settings.port) is None


def test_a_note_that_others_could_have_written_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    settings = Settings(_env_file=None, home=tmp_path / "home", port=free_port())
    (tmp_path / "home/run").mkdir(parents=True)
    (tmp_path / "home/run/up.lock").write_text(f"{os.getpid()}\n")
    with noted(settings):
        assert running_home(settings.port) == tmp_path / "home"
        (tmp_path / f"opsin-{os.getuid()}").chmod(0o777)
        assert running_home(settings.port) is None
