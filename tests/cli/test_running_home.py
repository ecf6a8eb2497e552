"""Commands in a folder without a home use that of the service which runs on this machine."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cli.running_home import Running, noted, running_home, running_services
from cli.settings import load
from contracts.settings import Settings
from tests.cli.running import ROOT, Starter
from tests.ports import free_port


def opsin(
    folder: Path, port: int | None, *words: str, **settings: object
) -> subprocess.CompletedProcess[str]:
    """One command in a folder, by somebody who has set no home, and without `port` nothing."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPSIN_")}
    environment |= {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    environment |= {name: str(value) for name, value in settings.items()}
    if port is not None:
        environment["OPSIN_PORT"] = str(port)
    return subprocess.run(
        (sys.executable, "-m", "cli", *words),
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=180,
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


def test_a_command_without_a_port_asks_the_service_of_its_home(
    start: Starter, tmp_path: Path, photos: Path
) -> None:
    home, port = tmp_path / "home", free_port()
    notes = {"TMPDIR": tmp_path}  # no other service of this machine is seen
    alone = opsin(photos, free_port(), "jobs", "list", **notes)
    assert "OPSIN_PORT" in alone.stderr
    run = start("tests/cli/stand_in.py", "up", OPSIN_HOME=home, OPSIN_PORT=port, **notes)
    run.wait_for("Ctrl-C")
    url = f"http://127.0.0.1:{port}"

    in_its_home = opsin(photos, None, "models", "list", "--json", OPSIN_HOME=home, **notes)
    assert in_its_home.stderr == ""
    assert url in opsin(photos, None, "doctor", OPSIN_HOME=home, **notes).stdout

    elsewhere = opsin(photos, None, "keys", "cli", **notes)
    assert f"This command uses {home}, the home of the service at {url}." in elsewhere.stderr
    assert (home / "cli.key").exists()
    assert list(photos.iterdir()) == []

    named = opsin(photos, free_port(), "jobs", "list", **notes)  # a port that the user sets stays
    assert f"name the one at {url} with --server." in named.stderr


def test_a_command_in_another_folder_does_not_choose_between_two_services(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(photos)
    for name in ("OPSIN_HOME", "OPSIN_PORT", "OPSIN_HOST"):
        monkeypatch.delenv(name, raising=False)
    first, second = (noted_home(tmp_path / name) for name in ("first", "second"))
    with noted(first):
        assert load().port == first.port
        assert load().home == first.home
        with noted(second):
            assert running_services() == [
                Running(one.home, one.host, one.port)
                for one in sorted((first, second), key=lambda one: one.port)
            ]
            assert load().port == 8000
            monkeypatch.setenv("OPSIN_HOME", str(second.home))
            assert load().port == second.port


def noted_home(home: Path) -> Settings:
    """The settings of an `opsin up` that this process seems to be."""
    (home / "run").mkdir(parents=True)
    (home / "run/up.lock").write_text(f"{os.getpid()}\n")
    return Settings(_env_file=None, home=home, port=free_port())


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
