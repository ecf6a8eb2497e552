"""A backup that is ended or killed leaves no copy of the people that outlives their erasure."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.backup import placing
from cli.commands.backup import write_backup
from cli.drafts import draft_of
from cli.startup import using_home
from contracts.settings import Settings
from models.store.staging import backup_copies
from tests.cli.backup.furnished import Furnished, furnish
from tests.cli.conftest import Starter
from tests.cli.running import Run, until
from tests.ports import free_port

# Both may be ignored where the tests run. Each file takes an hour to read.
OPSIN = """
import signal, sys, time
import cli.backup.packing
from cli.main import run
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.backup.packing._HashedFile.read = lambda *_: time.sleep(3600)
sys.argv[0] = "opsin"
run()
"""


@pytest.fixture
def home(tmp_path: Path) -> Furnished:
    return furnish(tmp_path / "home", port=free_port())


@pytest.fixture
def packing(start: Starter, home: Furnished, tmp_path: Path) -> Run:
    """A backup of `home` that has begun to write, and does not end."""
    (tmp_path / "to").mkdir()
    run = start("-c", OPSIN, "backup", str(tmp_path / "to" / "out.tar"))
    until(lambda: drafts(tmp_path) or run.process.poll() is not None)
    assert run.process.poll() is None, run.text
    assert copies(home.settings)
    return run


def copies(settings: Settings) -> list[Path]:
    return [path for path in (settings.jobs_home / ".staging").glob("*") if path.is_dir()]


def drafts(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "to").iterdir()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_one_that_is_ended_leaves_nothing(
    packing: Run, home: Furnished, tmp_path: Path, number: signal.Signals
) -> None:
    packing.process.send_signal(number)
    packing.process.send_signal(number)
    assert packing.wait() == 128 + number
    assert (copies(home.settings), drafts(tmp_path)) == ([], [])


def test_what_a_killed_one_leaves_is_removed_by_whoever_comes_next(
    packing: Run, home: Furnished, tmp_path: Path
) -> None:
    packing.process.kill()
    packing.wait()
    assert copies(home.settings)
    assert len(drafts(tmp_path)) == 1
    with using_home(home.settings):
        assert copies(home.settings) == []
    write_backup(home.settings, tmp_path / "to" / "out.tar", secrets=False)
    assert drafts(tmp_path) == ["out.tar"]


def test_that_of_one_which_runs_is_kept(packing: Run, home: Furnished, tmp_path: Path) -> None:
    left, drafted = copies(home.settings), drafts(tmp_path)
    with using_home(home.settings):
        assert copies(home.settings) == left
    assert not backup_copies(home.settings.jobs_home).is_empty()
    other = tmp_path / "to" / "other.tar"
    write_backup(home.settings, other, secrets=False)
    assert sorted(drafts(tmp_path)) == sorted([*drafted, "other.tar"])
    assert copies(home.settings) == left


def test_what_a_killed_restore_unpacked_is_removed_by_whoever_comes_next(home: Furnished) -> None:
    (placing.unpack_folder(home.settings.home) / "opsin.db").write_bytes(b"people")
    with using_home(home.settings):
        assert not (home.settings.home / ".restore").exists()


def test_a_draft_that_cannot_be_removed_is_named(
    home: Furnished, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / ".opsin-0123456789abcdef.part"
    kept.mkdir()
    write_backup(home.settings, tmp_path / "out.tar", secrets=False)
    assert kept.name in "".join(capfd.readouterr().err.split())


def test_a_draft_that_is_removed_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = list[int]()

    def remove_first(_file: int) -> bool:
        tries.append(1)
        if len(tries) == 1:
            next(tmp_path.glob(".opsin-*")).unlink()
        return True

    monkeypatch.setattr("cli.drafts.try_lock", remove_first)
    with draft_of(tmp_path / "out", mode=0o600) as (draft, file):
        file.write(b"whole")
        file.close()
        draft.replace(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nohup_keeps_a_closed_terminal_from_ending_it(tmp_path: Path) -> None:
    code = (
        "import os, signal; from cli.processes.signals import ending_orderly\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with ending_orderly(): os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "goes on\n"
