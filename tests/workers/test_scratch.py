import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from workers.scratch import Scratch, remove_left_folders, temporary_files

KILLED = """
import os, signal, subprocess, sys
from workers.scratch import Scratch
scratch = Scratch()
(scratch.path / "file").write_text("left")
child = subprocess.Popen(["sleep", "60"], pass_fds=[scratch.lock], stdout=subprocess.DEVNULL)
print(scratch.path, child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_worker_left_is_removed_once_its_child_has_ended(folder: Path) -> None:
    environment = os.environ | {"TMPDIR": str(folder)}
    made = subprocess.run(  # noqa: PLW1510
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, env=environment
    )
    path, child = made.stdout.split()
    assert made.returncode == -9
    remove_left_folders()
    assert Path(path, "file").exists()
    os.kill(int(child), 9)
    while Path(path).exists():  # until the system has closed its files
        remove_left_folders()


def test_a_folder_in_use_stays(folder: Path) -> None:
    scratch = Scratch()
    remove_left_folders()
    assert scratch.path.parent == folder
    assert scratch.path.is_dir()
    for _ in range(2):
        scratch.remove()
    assert not list(folder.iterdir())


def test_nothing_else_is_removed(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "opsin-scratch-link").symlink_to(folder / "other")
    (folder / "opsin-scratch-file").touch()
    remove_left_folders()
    assert len(list(folder.iterdir())) == 3


def test_temporary_files_of_a_process_are_in_a_folder_that_goes_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    left = Scratch()
    os.close(left.lock)  # as if its process had been killed
    with temporary_files():
        assert not left.path.exists()
        with tempfile.NamedTemporaryFile(delete=False) as file:
            assert Path(file.name).parent.parent == folder
        shown = subprocess.check_output(["sh", "-c", "echo $TMPDIR"], text=True).strip()
        assert Path(shown) == Path(file.name).parent
    assert not list(folder.iterdir())
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(folder)
