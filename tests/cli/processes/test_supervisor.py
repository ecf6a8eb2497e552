import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli.output import CommandError
from cli.processes.process import Program
from cli.processes.supervisor import QUICK_LIMIT, Supervisor
from tests.cli.running import Starter, until

SLEEP = "import time; time.sleep(600)"
STUBBORN = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
print(child.pid, flush=True)
child.wait()
"""
POLITE = """
import signal, sys, time
def leave(*_):
    print("bye", time.monotonic(), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("hello", flush=True)
time.sleep(600)
"""


def program(folder: Path, code: str, name: str = "child") -> Program:
    return Program(name, (sys.executable, "-c", code), dict(os.environ), folder / f"{name}.log")


def supervisor(said: list[str] | None = None, **options: float) -> Supervisor:
    lines = [] if said is None else said
    return Supervisor(lines.append, shutdown_seconds=options.get("seconds", 5), backoff=(0.0,))


def test_the_last_started_ends_first(tmp_path: Path) -> None:
    keeper = supervisor()
    programs = [program(tmp_path, POLITE, name) for name in ("first", "second")]
    for one in programs:
        keeper.start(one)
    until(lambda: all("hello" in one.log.read_text() for one in programs))
    keeper.stop()
    first, second = (float(one.log.read_text().split()[-1]) for one in programs)
    assert second < first
    assert not any(psutil.pid_exists(pid) for pid in keeper.pids().values())


def test_who_does_not_listen_is_killed_with_all_its_children(tmp_path: Path) -> None:
    keeper = supervisor(seconds=0.3)
    stubborn = program(tmp_path, STUBBORN)
    keeper.start(stubborn)
    until(lambda: stubborn.log.exists() and stubborn.log.read_text().strip())
    grandchild = int(stubborn.log.read_text())
    keeper.stop()
    until(lambda: not psutil.pid_exists(grandchild))


def test_a_second_wish_to_stop_does_not_wait(tmp_path: Path) -> None:
    keeper = supervisor(seconds=60)
    stubborn = program(tmp_path, STUBBORN)
    keeper.start(stubborn)
    until(lambda: stubborn.log.exists() and stubborn.log.read_text().strip())
    began = time.monotonic()
    keeper.stop(hurry=lambda: True)
    assert time.monotonic() - began < 5


def test_a_crashed_child_is_restarted_and_told(tmp_path: Path) -> None:
    said: list[str] = []
    keeper = supervisor(said)
    child = keeper.start(program(tmp_path, SLEEP))
    os.kill(child.pid, signal.SIGKILL)
    try:
        until(lambda: keeper.tend() or keeper.pids()["child"] != child.pid)
        assert said == ["child ended (signal 9); restarting it in 0 s."]
        assert psutil.Process(keeper.pids()["child"]).is_running()
    finally:
        keeper.stop()


def test_crashing_again_and_again_ends_it_with_the_logs_last_lines(tmp_path: Path) -> None:
    said: list[str] = []
    keeper = supervisor(said)
    keeper.start(program(tmp_path, "import sys; sys.exit('no luck')"))
    with pytest.raises(CommandError, match="crashed 5 times in a row") as raised:
        until(keeper.tend)
    assert "no luck" in raised.value.message
    assert len(said) == QUICK_LIMIT - 1
    keeper.stop()


def test_a_death_while_starting_is_not_retried(tmp_path: Path) -> None:
    keeper = supervisor()
    child = keeper.start(program(tmp_path, "raise SystemExit('bad setting')"))
    assert child.wait(10)
    with pytest.raises(CommandError, match="could not start") as raised:
        keeper.require_all()
    assert "bad setting" in raised.value.message
    keeper.stop()


def test_a_killed_supervisor_leaves_no_orphan(start: Starter, tmp_path: Path) -> None:
    code = f"""
import sys, time
from tests.cli.test_supervisor import program, supervisor, POLITE
from pathlib import Path
keeper = supervisor()
keeper.start(program(Path({str(tmp_path)!r}), POLITE))
time.sleep(600)
"""
    run = start("-c", code)
    log = tmp_path / "child.log"
    until(lambda: log.exists() and "hello" in log.read_text())
    children = run.descendants()
    assert children
    run.process.kill()
    run.wait()
    until(lambda: not any(child.is_running() for child in children), 5)


def test_without_the_kernels_help_the_watcher_ends_it(start: Starter, tmp_path: Path) -> None:
    """As on macOS: no leash, only the thread that looks for its parent."""
    watcher = (
        "from cli.processes.parent_death import watch_parent; watch_parent(1);"
        "import time; time.sleep(600)"
    )
    code = f"""
import os, subprocess, sys, time
env = {{**os.environ, "OPSIN_PARENT_PID": str(os.getpid())}}
print(subprocess.Popen([sys.executable, "-c", {watcher!r}], env=env).pid, flush=True)
time.sleep(600)
"""
    run = start("-c", code)
    until(lambda: run.text.strip().isdecimal())
    child = psutil.Process(int(run.text))
    time.sleep(0.7)
    assert child.is_running()
    run.process.kill()
    run.wait()
    until(lambda: not child.is_running(), 5)
